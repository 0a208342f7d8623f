"""Noticing that the config file changed: by its content, all or nothing, and each fault told once."""

from __future__ import annotations

import os
from pathlib import Path

from extproc import config_file
from extproc.config import Config
from extproc.errors import ConfigError
from extproc.reload import ConfigWatcher, digest

TEXT = "pools: [{name: a, endpoints: ['127.0.0.1:1']}]\n"
OTHER = TEXT.replace("name: a", "name: b")
FAULTY = TEXT.replace("name: a", "nmae: a")


class Told:
    """A watcher of a real file, and what it told: the name of the first pool, or the paths of the faults."""

    def __init__(self, file: Path, text: str = TEXT) -> None:
        self.file = file
        file.write_text(text)
        self.events: list[object] = []
        self.digests: list[str] = []
        _, seen = config_file.load(file)
        self._watcher = ConfigWatcher(file, digest(seen), self._apply, self._fail)

    def _apply(self, config: Config, config_hash: str) -> None:
        self.events.append(config.pools[0].name)
        self.digests.append(config_hash)

    def _fail(self, error: ConfigError) -> None:
        self.events.append([fault.path for fault in error.faults])

    async def look(self, text: str | None = None) -> list[object]:
        """What is told of *text* (None: of the file as it is)."""
        if text is not None:
            self.file.write_text(text)
        self.events = []
        await self._watcher.look()
        return self.events


async def test_an_unchanged_file_is_not_told_of(tmp_path: Path) -> None:
    told = Told(tmp_path / "config.yaml")
    assert await told.look() == []
    assert await told.look(TEXT) == []


async def test_a_change_is_told_once_with_its_hash(tmp_path: Path) -> None:
    told = Told(tmp_path / "config.yaml")
    assert await told.look(OTHER) == ["b"]
    assert await told.look() == []
    assert told.digests == [digest(OTHER.encode())]


async def test_a_change_of_the_same_length_and_time_is_seen(tmp_path: Path) -> None:
    told = Told(tmp_path / "config.yaml")
    before = told.file.stat()
    told.file.write_text(OTHER)
    os.utime(told.file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = told.file.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (
        before.st_size,
        before.st_mtime_ns,
        before.st_ino,
    )
    assert await told.look() == ["b"]


async def test_a_file_that_is_only_touched_is_not_told_of(tmp_path: Path) -> None:
    told = Told(tmp_path / "config.yaml")
    os.utime(told.file, (1, 1))
    assert await told.look() == []


async def test_a_file_replaced_by_renaming_is_seen(tmp_path: Path) -> None:
    """As editors and deployment tools save."""
    told = Told(tmp_path / "config.yaml")
    new = tmp_path / "config.yaml.new"
    new.write_text(OTHER)
    new.rename(told.file)
    assert await told.look() == ["b"]


async def test_a_configmap_swapped_two_links_up_is_seen(tmp_path: Path) -> None:
    """The kubelet: config.yaml -> ..data/config.yaml, ..data -> a dated folder, replaced by a rename."""
    for name, text in (("..2026_01", TEXT), ("..2026_02", OTHER)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(text)
    (tmp_path / "..data").symlink_to("..2026_01")
    (tmp_path / "config.yaml").symlink_to("..data/config.yaml")
    told = Told(tmp_path / "config.yaml")
    (tmp_path / "..data_tmp").symlink_to("..2026_02")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert await told.look() == ["b"]
    assert await told.look() == []


async def test_a_faulty_file_is_told_of_once_and_changes_nothing(tmp_path: Path) -> None:
    told = Told(tmp_path / "config.yaml")
    assert await told.look(FAULTY) == [["$.pools[0].nmae", "$.pools[0].name"]]
    assert await told.look() == []
    assert await told.look(FAULTY) == []


async def test_another_fault_is_told_of(tmp_path: Path) -> None:
    told = Told(tmp_path / "config.yaml")
    await told.look(FAULTY)
    assert await told.look("") == [["$"]]


async def test_the_repaired_file_is_told_even_where_it_is_the_one_in_force(tmp_path: Path) -> None:
    """So that whoever was told of the fault is told of its end."""
    told = Told(tmp_path / "config.yaml")
    await told.look(FAULTY)
    assert await told.look(TEXT) == ["a"]
    assert await told.look() == []


async def test_a_file_that_vanishes_is_told_of_once_and_again_when_it_is_back(tmp_path: Path) -> None:
    told = Told(tmp_path / "config.yaml")
    told.file.unlink()
    assert await told.look() == [["$"]]
    assert await told.look() == []
    assert await told.look(TEXT) == ["a"]


async def test_a_folder_or_a_dangling_link_in_its_place_is_a_fault(tmp_path: Path) -> None:
    told = Told(tmp_path / "config.yaml")
    told.file.unlink()
    told.file.mkdir()
    assert await told.look() == [["$"]]
    told.file.rmdir()
    told.file.symlink_to("nowhere")
    assert await told.look() == [["$"]]
    assert await told.look() == []


async def test_what_no_yaml_reader_survives_is_a_fault_like_any_other(tmp_path: Path) -> None:
    told = Told(tmp_path / "config.yaml")
    for text in ("? [a]\n: b", "a: !!bool x", "[" * 5000, "\0"):
        assert await told.look(text) == [["$"]]
