"""Detects disks that several machines may share; a store cannot use WAL mode there.

A write-ahead log needs memory that all its users share, so they must be on one machine
(https://www.sqlite.org/wal.html). On a network file system a store uses a rollback journal instead;
so it does on a FUSE file system, which may be a network file system. docs/store.md lists what was
tested.
"""

from pathlib import Path
from typing import Final

#: Names of network and cluster file systems.
_OF_NETWORKS: Final = frozenset({
    "9p", "acfs", "afpfs", "afs", "beegfs", "ceph", "cifs", "gfs2", "glusterfs", "gpfs", "lustre",
    "ncpfs", "nfs", "nfs3", "nfs4", "ocfs2", "orangefs", "panfs", "prl_fs", "pvfs2", "smb2", "smb3",
    "smbfs", "vboxsf", "virtiofs", "vmhgfs", "webdav", "wekafs",
})  # fmt: skip
_OF_FUSE: Final = ("fuse.", "macfuse", "osxfuse")
#: Local disks that use FUSE.
_LOCAL_FUSE: Final = frozenset({"fuse.exfat", "fuse.ntfs", "fuse.ntfs-3g"})


def shared_disk_of(path: Path) -> str:
    """Return the file system type of a path if several machines may share it; otherwise "".

    Args:
        path: a file or folder; it need not exist yet.
    """
    import psutil  # takes 20 ms to import; only writers need this

    place = path.resolve()
    above = {str(each): len(each.parts) for each in (place, *place.parents)}
    found = ""
    deepest = 0
    try:
        for each in psutil.disk_partitions(all=True):
            # A later mount at the same place hides an earlier one.
            if above.get(each.mountpoint, 0) >= max(deepest, 1):
                found, deepest = each.fstype.lower(), above[each.mountpoint]
    except (OSError, RuntimeError):  # the system does not list its mounts
        return ""
    return found if is_shared(found) else ""


def is_shared(file_system: str) -> bool:
    """Return whether several machines may share a file system of this type."""
    is_fuse = file_system == "fuse" or file_system.startswith(_OF_FUSE)
    return file_system in _OF_NETWORKS or (is_fuse and file_system not in _LOCAL_FUSE)


def sentence_about(file_system: str) -> str:
    """Return the message about a run on a shared disk."""
    return (
        f"this run is on a shared disk ({file_system}): its store uses a rollback journal, which "
        "is safe there, and other machines see new events some seconds late"
    )
