#!/usr/bin/env python3
"""Asks the box on 127.0.0.1:8080: create ROOM, describe TASK, health, metric NAME. With the lab's keys."""
import datetime, hashlib, hmac, json, sys, urllib.error, urllib.request

BOX = "http://127.0.0.1:8080"
APP, KEY_ID, KEY = 1400000001, "lab", "lab-key"
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(path):
    try:
        with OPENER.open(BOX + path, timeout=10) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.read().decode()


def health():
    return json.loads(get("/healthz"))


def metric(name):
    lines = [l for l in get("/metrics").splitlines() if l.startswith((name + " ", name + "{"))]
    return sum(float(l.rsplit(" ", 1)[1]) for l in lines)


def call(action, params):
    """The answer, or the error object. Signed with TC3-HMAC-SHA256."""
    body = json.dumps(params).encode()
    now = datetime.datetime.now(datetime.timezone.utc)
    stamp, day = str(int(now.timestamp())), now.strftime("%Y-%m-%d")
    host = BOX.removeprefix("http://")
    digest = lambda data: hashlib.sha256(data).hexdigest()
    mac = lambda key, text: hmac.new(key, text.encode(), hashlib.sha256)
    request = f"POST\n/\n\ncontent-type:application/json\nhost:{host}\n\ncontent-type;host\n{digest(body)}"
    scope = f"{day}/trtc/tc3_request"
    text = f"TC3-HMAC-SHA256\n{stamp}\n{scope}\n{digest(request.encode())}"
    key = mac(mac(mac(f"TC3{KEY}".encode(), day).digest(), "trtc").digest(), "tc3_request").digest()
    signed = f"SignedHeaders=content-type;host, Signature={mac(key, text).hexdigest()}"
    headers = {
        "Content-Type": "application/json",
        "Host": host,
        "X-TC-Action": action,
        "X-TC-Version": "2019-07-22",
        "X-TC-Timestamp": stamp,
        "Authorization": f"TC3-HMAC-SHA256 Credential={KEY_ID}/{scope}, {signed}",
    }
    with OPENER.open(urllib.request.Request(BOX + "/", body, headers), timeout=20) as answer:
        return json.loads(answer.read())["Response"]


def create(room):
    storage = {"Vendor": 1, "Region": "us-east-1", "Bucket": "lab", "AccessKey": "access", "SecretKey": "secret"}
    return call("CreateCloudRecording", {
        "SdkAppId": APP, "RoomId": room, "RoomIdType": 0, "UserId": "recorder", "UserSig": "unchecked",
        "RecordParams": {"RecordMode": 1, "MaxIdleTime": 3600, "StreamType": 0},
        "StorageParams": {"CloudStorage": {**storage, "FileNamePrefix": ["lab"]}},
    })


def describe(task):
    return call("DescribeCloudRecording", {"SdkAppId": APP, "TaskId": task})


if __name__ == "__main__":
    what = {"create": create, "describe": describe, "health": health, "metric": metric}[sys.argv[1]]
    print(json.dumps(what(*sys.argv[2:])))
