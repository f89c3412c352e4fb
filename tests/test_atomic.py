"""Files written whole or not at all."""

from __future__ import annotations

import builtins
import errno
import os
import stat

import pytest
from errors import raises
from model_files import assert_same, leftovers, network

from bptt import Network
from bptt.atomic import write_atomically


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


class TestAtomicWrite:
    def test_nothing_is_left_beside_the_file(self, path, tmp_path):
        network().save(path)
        network(seed=1).save(path)
        assert leftovers(tmp_path) == [path.name]
        assert_same(Network.load(path, backend="reference"), network(seed=1))

    @pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
    @pytest.mark.parametrize("function", ["replace", "fsync", "chmod"])
    @pytest.mark.parametrize("existing", [True, False])
    def test_an_interrupted_save_leaves_the_old_file_whole(
        self, path, tmp_path, monkeypatch, error, function, existing
    ):
        if existing:
            network().save(path)
        elif function == "chmod":
            pytest.skip("there are no permissions to keep")
        before = leftovers(tmp_path)

        def fail(*arguments):
            raise error

        monkeypatch.setattr(os, function, fail)
        with pytest.raises(type(error)) as raised:
            network(seed=1).save(path)
        monkeypatch.undo()
        assert leftovers(tmp_path) == before
        if isinstance(error, OSError):
            assert str(raised.value) == f"[Errno {errno.ENOSPC}] No space left on device: {str(path)!r}"
        if existing:
            assert_same(Network.load(path, backend="reference"), network())

    def test_a_half_written_file_is_never_in_place(self, path, monkeypatch):
        network().save(path)

        class Full:
            def __init__(self, file):
                self.file = file

            def __enter__(self):
                return self

            def __exit__(self, *arguments):
                self.file.close()

            def fileno(self):
                return self.file.fileno()

            def write(self, content):
                self.file.write(content[:100])
                self.file.flush()
                raise OSError(errno.ENOSPC, "No space left on device")

        original = builtins.open
        monkeypatch.setattr(
            builtins,
            "open",
            lambda name, mode: Full(original(name, mode)) if "x" in mode else original(name, mode),
        )
        with pytest.raises(OSError, match="No space left"):
            network(seed=1).save(path)
        monkeypatch.undo()
        assert leftovers(path.parent) == [path.name]
        assert_same(Network.load(path, backend="reference"), network())

    def test_a_signal_after_the_rename_leaves_the_new_file(self, path, monkeypatch):
        network().save(path)
        rename = os.replace

        def interrupted(*arguments):
            rename(*arguments)
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            network(seed=1).save(path)
        monkeypatch.undo()
        assert leftovers(path.parent) == [path.name]
        assert_same(Network.load(path, backend="reference"), network(seed=1))

    def test_it_is_on_the_disk_before_it_is_renamed_and_the_folder_after(self, path, monkeypatch):
        events, sync, rename = [], os.fsync, os.replace

        def fsync(descriptor):
            events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
            sync(descriptor)

        def replace(*names):
            events.append("rename")
            rename(*names)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "replace", replace)
        write_atomically(path, b"content")
        assert events == ["file", "rename", "folder"]
        assert path.read_bytes() == b"content"

    @pytest.mark.parametrize("mode", [0o600, 0o664, 0o755])
    def test_permissions_are_kept(self, path, mode):
        path.write_bytes(b"old")
        path.chmod(mode)
        write_atomically(path, b"new")
        assert stat.S_IMODE(path.stat().st_mode) == mode

    def test_a_new_file_has_the_usual_permissions(self, path, tmp_path):
        (tmp_path / "usual").write_bytes(b"")
        write_atomically(path, b"new")
        assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode

    def test_a_link_stays_a_link(self, path, tmp_path):
        target = tmp_path / "elsewhere"
        target.mkdir()
        (target / "real").write_bytes(b"old")
        path.symlink_to(target / "real")
        write_atomically(path, b"new")
        assert path.is_symlink()
        assert (target / "real").read_bytes() == b"new"

    def test_the_longest_name(self, tmp_path):
        path = tmp_path / ("x" * 255)
        write_atomically(path, b"new")
        assert path.read_bytes() == b"new"

    def test_a_relative_path(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        write_atomically("model", b"new")
        assert (tmp_path / "model").read_bytes() == b"new"

    def test_a_directory(self, tmp_path):
        with raises(IsADirectoryError, f"[Errno {errno.EISDIR}] Is a directory: {str(tmp_path)!r}"):
            write_atomically(tmp_path, b"")
        assert leftovers(tmp_path) == []

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
    def test_a_pipe_stays_one(self, path):
        os.mkfifo(path)
        expected = "expected a regular file, got a device or a pipe"
        with raises(OSError, f"[Errno {errno.EINVAL}] {expected}: {str(path)!r}"):
            write_atomically(path, b"new")
        assert leftovers(path.parent) == [path.name]
        assert stat.S_ISFIFO(path.stat().st_mode)

    def test_no_such_folder(self, tmp_path):
        path = tmp_path / "no" / "model"
        with raises(FileNotFoundError, f"[Errno {errno.ENOENT}] No such file or directory: {str(path)!r}"):
            write_atomically(path, b"")

    def test_a_protected_file(self, path, monkeypatch):
        path.write_bytes(b"old")
        monkeypatch.setattr(os, "access", lambda *arguments: False)  # root may write anything
        with raises(PermissionError, f"[Errno {errno.EACCES}] Permission denied: {str(path)!r}"):
            write_atomically(path, b"new")
        assert path.read_bytes() == b"old"
