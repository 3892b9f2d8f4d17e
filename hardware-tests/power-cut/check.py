#!/usr/bin/env python3
"""After a power cut and the next start: check.py MOUNT WITNESS LINE TASK LOG

The files alone are asked, and the box's log. Prints what it saw; exits with 1 when something promised is not there.
"""
import hashlib, os, re, subprocess, sys, time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "../lab"))
import api

SYNC_MS, BEHIND_MS = 2000, 1500
NAME = re.compile(r"_main_(audio|video)_r(\d+)_i\d+_t(\d+)_.*_d(\d+)\.ts$")

mount, witness, line, task, log = sys.argv[1:]
faults = []
with open(witness) as file:
    cut_ms, *promised = file.read().splitlines()[int(line)].split()
cut_ms = int(cut_ms)

# what was torn is adopted and put on the shelf in a moment
spool = os.path.join(mount, "state/spool")
for _ in range(100):
    parts = [f for _, _, files in os.walk(spool) for f in files if f.endswith(".part")]
    if not parts:
        break
    time.sleep(0.1)
if parts:
    faults.append(f"torn segments are left: {parts}")

for entry in promised:
    path, size, digest = entry.rsplit(":", 2)
    try:
        with open(os.path.join(mount, path), "rb") as file:
            body = file.read()
    except OSError as error:
        faults.append(f"{path}: {error.strerror}")
        continue
    if len(body) != int(size) or hashlib.sha256(body).hexdigest() != digest:
        faults.append(f"{path}: {len(body)} bytes, others than the {size} that were promised")

files = [os.path.join(d, f) for d, _, fs in os.walk(spool) for f in fs if f.endswith(".ts")]
ends = {}
for path in files:
    told = NAME.search(path)
    if told is None:
        faults.append(f"{path}: not a segment's name")
        continue
    probe = subprocess.run(
        ["ffprobe", "-v", "error", "-count_packets", "-show_entries", "stream=nb_read_packets", "-of", "csv=p=0", path],
        capture_output=True, text=True)
    if probe.returncode != 0 or not any(n.strip(",").isdigit() and int(n.strip(",")) for n in probe.stdout.split()):
        faults.append(f"{path}: does not play: {probe.stderr.strip()}")
    lane, start, length = told[1], int(told[3]), int(told[4])
    ends[lane] = max(ends.get(lane, 0), (start + length) // 1000)

with open(log) as file:
    log = file.read()
for sign in ["the index does not open", "a segment is lost", "the index does not know"]:
    faults += [l for l in log.splitlines() if sign in l][:2]
if promised and f"task taken in task={task} phase=Active" not in log:
    faults.append("the task is not taken up again")
found = re.search(rf"found on the shelf task={re.escape(task)} adopted=\d+ spooled=(\d+)", log)
known = int(found[1]) if found else 0
if known < len(promised):
    faults.append(f"the index knows {known} segments, and {len(promised)} were promised")
if promised:
    described = api.describe(task)
    if described.get("Status") not in ("Idle", "InProgress"):
        faults.append(f"Describe: {described}")
lost = {lane: cut_ms - end for lane, end in ends.items()}
if promised:
    faults += [f"{lane}: {ms} ms are lost" for lane, ms in lost.items() if ms > SYNC_MS + BEHIND_MS]

told = ", ".join(f"{lane} {ms} ms" for lane, ms in sorted(lost.items()))
print(f"{len(promised)} segments promised, {len(files)} on the shelf; lost before the mark: {told or '-'}")
for fault in faults:
    print("FAULT", fault)
sys.exit(1 if faults else 0)
