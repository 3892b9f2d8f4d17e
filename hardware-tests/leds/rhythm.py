#!/usr/bin/env python3
"""What rhythm a lamp has: `rhythm.py SECONDS FILE [TABLE-NAME]` samples a file that says 0 for dark (an LED's brightness,
a simulated line's value) and prints the lengths of its lit and dark phases; with a name, whether they are those that
`$HOLDFAST lights table` has for it ('light/state'); exits with 1 where they are not."""
import os, subprocess, sys, time

# a busy machine turns a lamp late, and reads it late
TOLERANCE_MS = 90


def sampled(path, seconds):
    """[(lit, milliseconds)], the whole phases only."""
    phases, lit, since, end = [], None, None, time.monotonic() + seconds
    with open(path, "rb", buffering=0) as lamp:
        while (now := time.monotonic()) < end:
            lamp.seek(0)
            level = lamp.read(16).strip() not in (b"0", b"inactive")
            if level != lit:
                if since is not None:
                    phases.append((lit, round((now - since) * 1000)))
                # how long the first phase had lasted nobody saw
                since = now if lit is not None else None
                lit = level
            time.sleep(0.004)
    return phases, lit


def table():
    text = subprocess.run([os.environ["HOLDFAST"], "lights", "table"], check=True, capture_output=True, text=True).stdout
    rows = [line.split("\t") for line in text.splitlines()]
    return {f"{light}/{state}": [int(ms) for ms in rhythm.split()] for light, state, rhythm, _ in rows}


def fits(phases, lit, expected):
    if not expected:
        return not phases and not lit
    if len(phases) < len(expected):
        return False
    # the rhythm has no beginning for whoever looks up at it; lit phases stay lit ones
    for turn in range(len(expected)):
        turned = expected[turn:] + expected[:turn]
        begins_lit = turn % 2 == 0
        if all(
            lit == (begins_lit == (i % 2 == 0)) and abs(ms - turned[i % len(turned)]) <= TOLERANCE_MS
            for i, (lit, ms) in enumerate(phases)
        ):
            return True
    return False


def main():
    seconds, path = float(sys.argv[1]), sys.argv[2]
    phases, lit = sampled(path, seconds)
    seen = " ".join(f"{'+' if on else '-'}{ms}" for on, ms in phases) or ("lit" if lit else "dark")
    if len(sys.argv) < 4:
        print(seen)
        return 0
    expected = table()[sys.argv[3]]
    good = fits(phases, lit, expected)
    print(f"{'ok   ' if good else 'FAULT'} {sys.argv[3]}: {seen}{'' if good else f' instead of {expected}'}")
    return 0 if good else 1


sys.exit(main())
