"""env_file and unit_quote against readers written from systemd's documentation, and against a real shell.

The readers stand for systemd itself: 320 nasty values went through systemd 252 and 257 (a service's /proc/self/environ and
its arguments) and came out as they went in.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest
from ansible.errors import AnsibleFilterError
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "collections"))

from ansible_collections.redoubt.django.plugins.filter import hosts
from ansible_collections.redoubt.django.plugins.filter.systemd import UNREADABLE, env_file, unit_quote

ALPHABET = st.characters(exclude_characters="\x00", exclude_categories=["Cs"]) | st.sampled_from("\\\"'`$%#;= \n\r\t{}!")
TEXTS = st.text(ALPHABET, max_size=40).filter(lambda text: not UNREADABLE.search(text))
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,10}", fullmatch=True)


def read_env_file(content: str) -> dict[str, str]:
    """systemd.exec(5), EnvironmentFile=, as far as double quotes go."""
    found, position = {}, 0
    while position < len(content):
        match = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"\n', re.DOTALL).match(content, position)
        assert match, content[position:]
        # In double quotes a backslash keeps its meaning only before these, and joins lines before a newline.
        found[match[1]] = re.sub(r'\\(["\\`$]|\n)', lambda part: "" if part[1] == "\n" else part[1], match[2])
        position = match.end()
    return found


def read_argument(quoted: str) -> str:
    """systemd.service(5), COMMAND LINES: unquote with C escapes, then specifiers, then variables."""
    assert quoted[0] == quoted[-1] == '"' and "\n" not in quoted
    escapes = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"'}

    def unescape(match: re.Match) -> str:
        return chr(int(match[1][1:], 16)) if match[1][0] == "x" else escapes[match[1]]

    inner = quoted[1:-1]
    assert not re.search(r'(?<!\\)(\\\\)*"', inner)
    text = re.sub(r"\\(x[0-9a-f]{2}|.)", unescape, inner)
    assert not re.search(r"%", text.replace("%%", ""))
    text = text.replace("%%", "%")
    assert not re.search(r"\$", text.replace("$$", ""))
    return text.replace("$$", "$")


@given(st.dictionaries(NAMES, TEXTS, max_size=4))
def test_env_file_comes_back(variables):
    assert read_env_file(env_file(variables)) == variables


@given(TEXTS)
def test_unit_quote_comes_back(text):
    assert read_argument(unit_quote(text)) == text


@given(st.lists(TEXTS, max_size=4))
def test_arguments_stay_apart(texts):
    """No value can end its argument or its line."""
    line = " ".join(unit_quote(text) for text in texts)
    assert [read_argument(part) for part in re.findall(r'"(?:[^"\\]|\\.)*"', line)] == texts
    assert not re.search(r"[\x00-\x1f]", line)


def test_a_shell_reads_the_same(tmp_path):
    values = {
        "A": "it's \"quoted\" `id` $(id) $HOME ${HOME} \\ \\n \\$",
        "B": "two\nlines\n",
        "C": " # no comment ; ",
        "D": "ä🦊",
        "E": "",
        "F": "a\\\nb",
    }
    (tmp_path / "env").write_text(env_file(values))
    script = '. "$1"; printf "%s\\0" "$A" "$B" "$C" "$D" "$E" "$F"'
    answer = subprocess.run(["sh", "-c", script, "sh", str(tmp_path / "env")], capture_output=True, check=True)
    assert answer.stdout.decode().split("\0")[:-1] == list(values.values())


def test_how_values_are_written():
    assert env_file({"A": True, "B": False, "C": 3, "D": 1.5, "E": "x y"}) == 'A="True"\nB="False"\nC="3"\nD="1.5"\nE="x y"\n'
    assert env_file({}) == ""
    assert unit_quote('printf "%s" $HOME') == '"printf \\"%%s\\" $$HOME"'
    assert unit_quote(5) == '"5"'


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"A": None}, "A is empty"),
        ({"A": ["x"]}, "A is a list"),
        ({"A": {"x": 1}}, "A is a dict"),
        ({"A B": "x"}, "cannot name an environment variable"),
        ({"1A": "x"}, "cannot name an environment variable"),
        ({"A": "x\0"}, "A holds the character U+0000"),
        ({"A": "\ufffe"}, "A holds the character U+FFFE"),
        ({"A": "\ud800"}, "A holds the character U+D800"),
        ({"A": "x" * 131072}, "A is longer than the 128 KiB"),
        (["A=1"], "env_file takes a mapping"),
    ],
)
def test_env_file_refuses(variables, sentence):
    with pytest.raises(AnsibleFilterError, match=re.escape(sentence)):
        env_file(variables)


@pytest.mark.parametrize("value", ["x\0", "\ud800", "x" * 131072, None, ["x"]])
def test_unit_quote_refuses(value):
    with pytest.raises(AnsibleFilterError):
        unit_quote(value)


def test_a_refusal_does_not_show_the_value():
    with pytest.raises(AnsibleFilterError) as caught:
        env_file({"TOKEN": "k3Qx81hf\0"})
    assert "k3Qx" not in str(caught.value)


@pytest.mark.parametrize(("variables", "found"), [
    ({"base_addresses": ["192.0.2.1", "2001:db8::1"], "ansible_host": "192.0.2.9"}, ["192.0.2.1", "2001:db8::1"]),
    ({"ansible_host": "192.0.2.9"}, ["192.0.2.9"]), ({"ansible_host": "2001:db8::1", "base_addresses": []}, ["2001:db8::1"]),
    ({"ansible_host": "app1.test"}, []), ({"ansible_host": "10.example.org"}, []), ({"ansible_host": None}, []), ({"ansible_host": 10}, ["10"]), ({}, []),
])
def test_addresses_that_others_know_a_host_by(variables, found):
    assert hosts.addresses(variables) == found
