"""The cache folder belongs to one user; where it cannot, a temporary folder is used."""

import os
import pwd
import stat
from pathlib import Path

import pytest

from toolkit.runtime.machine import disk


@pytest.fixture(autouse=True)
def base(tmp_path, monkeypatch):
    """A cache of the test's own, and a process that has said nothing yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(disk, "_said", {})
    disk.private_folder.cache_clear()
    yield tmp_path / "cache"
    disk.private_folder.cache_clear()


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_folders_are_made_for_this_user_alone(base):
    before = os.umask(0)
    try:
        folder = disk.cache_folder("kernels")
    finally:
        os.umask(before)
    assert folder == base.resolve() / "speculative-toolkit" / "kernels"
    assert [mode(place) for place in (folder, folder.parent, base)] == [0o700] * 3


def test_a_relative_xdg_cache_home_is_ignored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for named in ("here", "./here", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", named)
        assert disk.cache_folder("costs").is_relative_to(tmp_path.resolve() / "home" / ".cache")
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("home", [None, "relative"])
def test_without_a_home_a_temporary_folder_serves(home, tmp_path, monkeypatch, caplog):
    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("HOME") if home is None else monkeypatch.setenv("HOME", home)
    folder = disk.cache_folder("costs")
    assert folder == disk.private_folder("costs")
    assert list(tmp_path.iterdir()) == []
    (said,) = caplog.messages
    assert "home" in said


@pytest.mark.parametrize("which", ["speculative-toolkit/kernels", "speculative-toolkit", ""])
@pytest.mark.parametrize("bits", [0o770, 0o707, 0o1777])
def test_a_folder_that_others_can_write_to_is_not_used(base, which, bits, caplog):
    """Sticky or not: what lies in the folder itself may be anybody's. Above it, sticky is enough."""
    disk.cache_folder("kernels")
    (base / which).chmod(bits)
    folder = disk.cache_folder("kernels")
    if bits == 0o1777 and not which.endswith("kernels"):
        assert folder.is_relative_to(base.resolve())
        return
    assert not folder.is_relative_to(base.resolve())
    assert mode(folder) == 0o700
    assert disk.cache_folder("kernels") == folder
    (said,) = caplog.messages  # once
    assert str((base / which).resolve()) in said
    assert "others can write to it" in said


def test_another_users_folder_is_not_used(base, monkeypatch, caplog):
    ours, real = disk.cache_folder("kernels"), os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: real + 1)
    with pytest.raises(PermissionError, match="belongs to another user"):
        disk.require_own(ours)
    with pytest.raises(OSError, match="belongs to another user"):  # nor is /tmp's, made as `real`
        disk.cache_folder("kernels")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_nothing_is_made_in_another_users_cache(base, caplog):
    """By root with another's HOME: they could not use what root has made there."""
    base.mkdir(mode=0o700)
    os.chown(base, 65534, 65534)
    assert disk.cache_folder("kernels") == disk.private_folder("kernels")
    assert list(base.iterdir()) == []
    assert caplog.messages[0].endswith(f"{base.resolve()}: it belongs to another user")


def test_roots_folder_is_good_above_and_not_as_the_cache(base, monkeypatch):
    """Whoever runs this: everything is root's but the cache's own folder."""
    folder, stat_of = disk.cache_folder("kernels"), Path.stat
    owners = {str(folder): 7}

    def owned(self, **how):
        fields = list(stat_of(self, **how))
        fields[stat.ST_UID] = owners.get(str(self), 0)
        return os.stat_result(fields)

    monkeypatch.setattr(Path, "stat", owned)
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    disk.require_own(folder)
    owners[str(folder)] = 0
    with pytest.raises(PermissionError):
        disk.require_own(folder)
    owners.update({str(folder): 7, str(folder.parent): 8})
    with pytest.raises(PermissionError):
        disk.require_own(folder)


def test_links_are_followed_before_anything_is_trusted(base, tmp_path, caplog):
    real = tmp_path / "elsewhere"
    real.mkdir(mode=0o700)
    base.symlink_to(real)
    assert disk.cache_folder("kernels") == real.resolve() / "speculative-toolkit" / "kernels"
    real.chmod(0o777)
    assert not disk.cache_folder("kernels").is_relative_to(real.resolve())
    assert str(real.resolve()) in caplog.text


def test_a_link_that_leads_nowhere_or_around(base, tmp_path):
    base.symlink_to(base)
    assert disk.cache_folder("costs").is_dir()
    base.unlink()
    base.symlink_to(tmp_path / "gone")
    assert disk.cache_folder("costs").is_dir()


def test_a_file_of_ones_own(tmp_path, monkeypatch):
    file, link = tmp_path / "file", tmp_path / "link"
    file.touch(0o600)
    link.symlink_to(file)
    assert disk.is_own_file(file)
    assert not any(map(disk.is_own_file, (link, tmp_path, tmp_path / "none")))
    file.chmod(0o620)
    assert not disk.is_own_file(file)
    file.chmod(0o600)
    monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)
    assert not disk.is_own_file(file)
