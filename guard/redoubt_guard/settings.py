"""The settings module that Django is pointed at: the project's own settings, then the guard's changes.

The project's module is named in REDOUBT_SETTINGS_MODULE. An error in it comes out as it is. Code of the project that imports its own
settings module, instead of django.conf.settings, finds the changed values there too, unless it imported them before this module was
read, or imports another module that they were first written in.
"""

import importlib
import os

from django.core.exceptions import ImproperlyConfigured

from . import config as _config
from . import overlay as _overlay

# For the guard's own modules; Django takes names in capitals only.
config = _config.from_environment(os.environ, _overlay.SWITCHES)
_project = importlib.import_module(config.settings_module)

project = {name: getattr(_project, name) for name in dir(_project) if name.isupper()}
changes = _overlay.plan(project, config)
globals().update(project)
for _name, _value in _overlay.values(project, config, changes).items():
    globals()[_name] = _value
    setattr(_project, _name, _value)

refusal = _overlay.refusal(project, config)
if refusal and _overlay.refuse:
    raise ImproperlyConfigured(refusal)
