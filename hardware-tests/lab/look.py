#!/usr/bin/env python3
"""Looks at an exported recording: look.py DIR KIND DISCONTINUITIES LEAST_SECONDS [LEAST_DB]. Exits with 1 at a fault.

KIND is video or audio. Every picture or sample must decode; pictures must not be of one colour, sound must not be below
LEAST_DB in the middle.
"""
import glob, json, re, subprocess, sys

folder, kind, breaks, least = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
lists = [l for l in glob.glob(f"{folder}/**/*.m3u8", recursive=True) if l.endswith(f"_{kind}.m3u8")]
if len(lists) != 1:
    sys.exit(f"FAULT {len(lists)} lists of {kind}: {lists}")
text = open(lists[0]).read()
found = text.split("#EXTINF", 1)[1].count("#EXT-X-DISCONTINUITY\n")
seconds = sum(float(n) for n in re.findall(r"#EXTINF:([0-9.]+)", text))


def run(*arguments):
    done = subprocess.run(arguments, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr.strip()


# file by file: time stamps step over a gap, which is no fault
parts = [lists[0].rsplit("/", 1)[0] + "/" + line for line in text.splitlines() if line and not line.startswith("#")]
faults, frames, shapes, levels = [], 0, set(), []
for part in parts:
    # the null muxer counts in frames of the guessed rate otherwise, and complains of two in one tick
    code, _, complaints = run("ffmpeg", "-nostdin", "-v", "error", "-i", part, "-vsync", "passthrough",
                              "-enc_time_base:v", "1:90000", "-f", "null", "-")
    if code or complaints:
        faults.append(f"{part}: {complaints}")
    if kind == "video":
        code, out, _ = run("ffprobe", "-v", "error", "-count_frames", "-select_streams", "v:0",
                           "-show_entries", "stream=nb_read_frames,codec_name,width,height", "-of", "json", part)
        shape = json.loads(out)["streams"][0]
        frames += int(shape["nb_read_frames"])
        shapes.add(f"{shape['codec_name']} {shape['width']}x{shape['height']}")
        raw = subprocess.run(["ffmpeg", "-nostdin", "-v", "error", "-i", part, "-frames:v", "1", "-vf",
                              "scale=16:16,format=gray", "-f", "rawvideo", "-"], capture_output=True).stdout
        if not raw or max(raw) - min(raw) < 20:
            faults.append(f"{part}: its first picture is of one colour")
    else:
        _, _, told = run("ffmpeg", "-nostdin", "-i", part, "-af", "volumedetect", "-f", "null", "-")
        level = re.search(r"mean_volume: (-?[0-9.]+) dB", told)
        levels.append(float(level.group(1)) if level else -99.0)
print(f"{kind}: {len(parts)} files, {seconds:.1f} s, {found} discontinuities, {frames} pictures {shapes or ''} {levels or ''}")
if found != breaks:
    faults.append(f"{found} discontinuities, not {breaks}:\n{text}")
if seconds < least:
    faults.append(f"{seconds} s, not {least}")
if levels and sorted(levels)[len(levels) // 2] < float(sys.argv[5]):
    faults.append(f"it is too quiet: {levels} dB")
if kind == "video" and frames < seconds * 3:
    faults.append(f"{frames} pictures in {seconds} s")
sys.exit("\n".join("FAULT " + fault for fault in faults) if faults else 0)
