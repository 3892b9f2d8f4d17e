# Sourced in the guest: a box on a disk, and who publishes into it. HOLDFAST is the program, OUT a folder of the share.
# shellcheck shell=bash
lab=$(dirname "${BASH_SOURCE[0]}")

# start_box MOUNT [FURTHER TOML]: returns when its doors are open
start_box() {
    cat >/dev/shm/holdfast.toml <<TOML
[server]
http = "127.0.0.1:8080"
state_dir = "$1/state"
[whip]
udp = "127.0.0.1:8189"
addresses = ["127.0.0.1"]
[[apps]]
sdk_app_id = 1400000001
[[api_keys]]
secret_id = "lab"
secret_key = "lab-key"
[limits]
probe = false
[recording]
segment_seconds = 4
[storage]
# nobody is there: everything stays on the shelf
s3_endpoint = "http://127.0.0.1:9"
path_style = true
[upload]
retry_longest_seconds = 2
[disk]
low_percent = 0
low_bytes = 4194304
low_inodes = 0
reserve_bytes = 4194304
${2:-}
TOML
    : >"$OUT/box.out"
    NO_COLOR=1 RUST_LOG=info "$HOLDFAST" run --config /dev/shm/holdfast.toml >"$OUT/box.out" 2>"$OUT/box.log" &
    box=$!
    local tries=0
    until grep -q '^ready' "$OUT/box.out"; do
        kill -0 "$box" 2>/dev/null || { echo "the box does not start:"; tail -20 "$OUT/box.log"; return 1; }
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || { echo "the box is not ready after 30 s"; return 1; }
        sleep 0.1
    done
}

# publish ROOM USER: a small test picture with sound, until the guest ends
publish() {
    "$HOLDFAST" publish "http://127.0.0.1:8080/whip/$1/$2" \
        --width 320 --height 180 --fps 15 --bitrate 200000 >"$OUT/publish-$2.log" 2>&1 &
}

# create ROOM: prints the task's id
create() {
    python3 "$lab/api.py" create "$1" | python3 -c 'import json, sys; print(json.load(sys.stdin)["TaskId"])'
}
