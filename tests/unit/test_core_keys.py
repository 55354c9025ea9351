"""Lines of API keys: what they say, and that a mistake in them is told without repeating them."""

from __future__ import annotations

import pytest

from jobpipe.core.keys import BadKeys, Key, Scope, digest_of, line_of, parse_entries, parse_keys

DIGEST = digest_of(b"secret").hex()


def test_a_line_is_a_name_its_scopes_and_the_hash_of_the_key() -> None:
    (key,) = parse_keys(f"ci:enqueue,read:{DIGEST}")
    assert key == Key("ci", frozenset({Scope.ENQUEUE, Scope.READ}), digest_of(b"secret"))


def test_blank_lines_comments_and_blanks_around_the_parts_say_nothing() -> None:
    text = f"# keys of the team\n\n  ci : read : {DIGEST.upper()}  \r\n\t\n"
    assert [key.name for key in parse_keys(text)] == ["ci"]
    assert parse_keys("") == []


def test_the_variable_separates_by_semicolons() -> None:
    other = digest_of(b"other").hex()
    assert [key.name for key in parse_entries(f"a:read:{DIGEST};b:work:{other};")] == ["a", "b"]


@pytest.mark.parametrize(("text", "rate"), [("rate=100/s", 100), ("rate=0.5", 0.5), ("rate=1000000/s", 1e6)])
def test_a_fourth_part_limits_the_rate(text: str, rate: float) -> None:
    (key,) = parse_keys(f"ci:read:{DIGEST}:{text}")
    assert key.rate == rate
    assert parse_keys(line_of(key)) == [key]


@pytest.mark.parametrize("scope", Scope)
def test_admin_reaches_everything_and_the_others_only_their_own(scope: Scope) -> None:
    assert Key("a", frozenset({Scope.ADMIN}), b"").reaches(scope)
    assert Key("a", frozenset({Scope.READ}), b"").reaches(scope) is (scope is Scope.READ)


@pytest.mark.parametrize(
    "line",
    ["hunter2", "hunter2:read", f"hunter2!:read:{DIGEST}", f":read:{DIGEST}", f"a:hunter2:{DIGEST}", f"a::{DIGEST}",
     "a:read:hunter2", f"a:read:{DIGEST}0", f"a:read:{DIGEST}:hunter2", f"a:read:{DIGEST}:rate=0",
     f"a:read:{DIGEST}:rate=1e3", f"a:read:{DIGEST}:rate=2000000", f"a:read:{DIGEST}:rate=1/s:hunter2",
     f"{'a' * 101}:read:{DIGEST}"],
)  # fmt: skip
def test_a_mistake_names_its_line_and_repeats_nothing_of_it(line: str) -> None:
    with pytest.raises(BadKeys, match=r"^line 2: ") as raised:
        parse_keys(f"# first\n{line}")
    assert "hunter2" not in str(raised.value)


def test_no_two_keys_share_a_name_or_are_one() -> None:
    other = digest_of(b"other").hex()
    with pytest.raises(BadKeys, match="the name of 'a'"):
        parse_keys(f"a:read:{DIGEST}\na:work:{other}")
    with pytest.raises(BadKeys, match="the key of 'b'"):
        parse_keys(f"a:read:{DIGEST}\nb:work:{DIGEST}")
