import pytest

from extproc.label_syntax import is_key, is_value


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("app", True),
        ("App_1.b-c", True),
        ("app.kubernetes.io/name", True),
        ("a" * 63, True),
        ("x" * 253 + "/" + "a" * 63, True),
        ("", False),
        ("a" * 64, False),
        ("x" * 254 + "/a", False),
        ("-app", False),
        ("app-", False),
        ("Prefix/app", False),
        ("a/b/c", False),
        ("/app", False),
        ("prefix/", False),
        ("app\n", False),
        ("äpp", False),
    ],
)
def test_a_key_is_a_name_with_or_without_a_prefix(key: str, expected: bool) -> None:
    assert is_key(key) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [("", True), ("v1.2_b-c", True), ("1", True), ("a" * 63, True)]
    + [(wrong, False) for wrong in ("a" * 64, "-a", "a.", "a b", "a=b", "a\n", "ä")],
)
def test_a_value_may_be_empty_and_has_63_characters_at_most(value: str, expected: bool) -> None:
    assert is_value(value) is expected
