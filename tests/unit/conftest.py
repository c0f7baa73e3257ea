"""Plugins are imported as Ansible imports them, whichever test is first: an import that comes before its loader hides the others' plugins."""

from pathlib import Path

from ansible.plugins.loader import init_plugin_loader

init_plugin_loader([str(Path(__file__).resolve().parents[2] / "collections")])
