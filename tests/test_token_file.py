"""A bearer token in a file that somebody else renews."""

from __future__ import annotations

from pathlib import Path

import pytest

from extproc.token_file import MAX_TOKEN_BYTES, REREAD_S, TokenFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("old\n")
    return path


def test_the_file_is_read_once_a_minute(path: Path) -> None:
    file = TokenFile(str(path))
    assert file.token(1000.0) == "old"
    path.write_text(" new ")
    assert file.token(1000.0 + REREAD_S - 1) == "old"
    assert file.token(1000.0 + REREAD_S) == "new"


def test_the_file_is_read_again_once_the_token_was_refused(path: Path) -> None:
    file = TokenFile(str(path))
    assert file.token(1000.0) == "old"
    path.write_text("new")
    file.refused()
    assert file.token(1000.0) == "new"


@pytest.mark.parametrize(
    "content", [b"", b" \n", b"two\nlines", b"a b", b"x" * (MAX_TOKEN_BYTES + 1), b"\xff", b"a\x7f", b"\0"]
)
def test_a_file_without_a_token_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"token holds no bearer token \(one line of visible ASCII\)$"):
        TokenFile(str(path)).token(0.0)


@pytest.mark.parametrize(
    "token", ["x" * MAX_TOKEN_BYTES, "!~"], ids=["the longest", "the first and the last"]
)
def test_a_token_is_of_visible_ascii(path: Path, token: str) -> None:
    path.write_text(token)
    assert TokenFile(str(path)).token(0.0) == token


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        TokenFile(str(tmp_path / "none")).token(0.0)
