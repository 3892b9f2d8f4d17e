#!/usr/bin/env python3
"""The log of dm-log-writes: what a disk with a volatile cache holds for sure after a power cut.

  replay.py marks LOG            the marks, in order
  replay.py write LOG DISK MARK  the disk as a power cut at the moment of that mark leaves it

The format is that of Linux, drivers/md/dm-log-writes.c: a super block, then entries, each padded to a sector and
followed by its data. A write is logged only when a flush that began after it is done (or as itself, with FUA), and a mark
at once: so what stands before a mark is what was safe at that moment, and nothing else is.
"""
import os, struct, sys

MAGIC, DISCARD, MARK = 0x6A736677736872, 4, 8


def entries(log):
    magic, version, count, sector = struct.unpack("<QQQI", log.read(28))
    if magic != MAGIC or version != 1:
        raise SystemExit("this is no log of dm-log-writes")
    at = sector
    for _ in range(count):
        log.seek(at)
        where, sectors, flags, length = struct.unpack("<QQQQ", log.read(32))
        text = log.read(length).rstrip(b"\0").decode() if flags & MARK else ""
        at += sector
        data = at
        if not flags & (MARK | DISCARD):
            at += sectors * 512
        yield where, sectors, flags, text, data


def marks(path):
    with open(path, "rb") as log:
        for _, _, flags, text, _ in entries(log):
            if flags & MARK:
                print(text)


def write(path, disk, mark):
    with open(path, "rb") as log, open(disk, "r+b") as to:
        for where, sectors, flags, text, data in entries(log):
            if flags & MARK:
                if text == mark:
                    return
                continue
            to.seek(where * 512)
            if flags & DISCARD:
                to.write(bytes(min(sectors * 512, os.fstat(to.fileno()).st_size - where * 512)))
                continue
            log.seek(data)
            to.write(log.read(sectors * 512))
        raise SystemExit(f"there is no mark {mark}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["marks", log]:
            marks(log)
        case ["write", log, disk, mark]:
            write(log, disk, mark)
        case _:
            raise SystemExit(__doc__)
