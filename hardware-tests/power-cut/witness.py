#!/usr/bin/env python3
"""Notes, until it is killed, what the box has promised: witness.py MOUNT OUT [DM-DEVICE]

A line a moment: Unix ms, then the finished segments that the box counts as spooled, each `path:bytes:sha256`. Each line
is also a mark in the log of the device, so that a replay knows which line was true before it.
"""
import hashlib, os, subprocess, sys, time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "../lab"))
import api

mount, out, device = sys.argv[1], sys.argv[2], sys.argv[3:]
spool = os.path.join(mount, "state/spool")
seen, line = {}, 0
with open(out, "w") as to:
    while True:
        there = [os.path.join(d, f) for d, _, files in os.walk(spool) for f in files if f.endswith(".ts")]
        for path in there:
            if path not in seen:
                with open(path, "rb") as file:
                    body = file.read()
                seen[path] = f"{os.path.relpath(path, mount)}:{len(body)}:{hashlib.sha256(body).hexdigest()}"
        # nothing is uploaded here: when as many are counted as lie there, each of them is promised
        try:
            counted = api.metric("holdfast_segments_spooled_total")
        except OSError:
            # a busy machine answers late
            continue
        if counted >= len(there):
            # the moment before what is written, so that the line never claims a later one than it is
            print(time.time_ns() // 1_000_000, *(seen[path] for path in there), file=to, flush=True)
            if device:
                subprocess.run(["dmsetup", "message", os.path.basename(device[0]), "0", "mark", f"line-{line}"], check=True)
            line += 1
        time.sleep(0.2)
