"""Calls a box with the official Python SDK, unmodified, in every way the SDK has; prints one JSON object of outcomes.

An outcome is {"ok": answer} or {"code", "message", "id"} as the SDK raised it.
Arguments: endpoint (host:port), secret id, secret key, SdkAppId, the app's secret key.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import TLSSigAPIv2
from tencentcloud.common import credential
from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException
from tencentcloud.common.common_client import CommonClient
from tencentcloud.common.profile.client_profile import ClientProfile
from tencentcloud.common.profile.http_profile import HttpProfile
from tencentcloud.trtc.v20190722 import models, trtc_client

endpoint, secret_id, secret_key, app, app_key = sys.argv[1:6]
app = int(app)
outcomes = {}


def profile(sign="TC3-HMAC-SHA256", method="POST", language=None, unsigned=False):
    http = HttpProfile(protocol="http", endpoint=endpoint, reqMethod=method, reqTimeout=30)
    made = ClientProfile(signMethod=sign, httpProfile=http, language=language or "zh-CN")
    made.unsignedPayload = unsigned
    return made


def client(made=None, key=secret_key, token=None, by=secret_id):
    return trtc_client.TrtcClient(credential.Credential(by, key, token), "ap-guangzhou", made or profile())


def note(name, call):
    try:
        answer = call()
        outcomes[name] = {"ok": json.loads(answer.to_json_string()) if hasattr(answer, "to_json_string") else answer}
    except TencentCloudSDKException as error:
        outcomes[name] = {"code": error.get_code(), "message": error.get_message(), "id": error.get_request_id()}


def request(action, params):
    made = getattr(models, action + "Request")()
    made.from_json_string(json.dumps(params))
    return made


sig = TLSSigAPIv2.TLSSigAPIv2(app, app_key).gen_sig("rec_bot", 86400)
create = {
    "SdkAppId": app, "RoomId": "ward 5", "RoomIdType": 0, "UserId": "rec_bot", "UserSig": sig,
    "RecordParams": {
        "RecordMode": 1, "MaxIdleTime": 30, "StreamType": 0, "AvMerge": 0,
        "SubscribeStreamUserIds": {"SubscribeAudioUserIds": ["alice", "bob.*$"], "SubscribeVideoUserIds": []},
    },
    "StorageParams": {"CloudStorage": {
        "Vendor": 1, "Region": "us-east-1", "Bucket": "rec", "AccessKey": "AKIDx", "SecretKey": "sk+/=&",
        "FileNamePrefix": ["p1", "p2"],
    }},
    "MixLayoutParams": {"MixLayoutMode": 3, "PureAudioDisableLayout": True},
    "ResourceExpiredHour": 72,
}
# Every field of a mixed recording, so that each typed model of the SDK is filled.
layout = {
    "MixLayoutMode": 4,
    "MixLayoutList": [
        {"Top": 0, "Left": 0, "Width": 640, "Height": 720, "UserId": "alice", "Alpha": 10, "RenderMode": 3, "MediaId": 1,
         "ImageLayer": -1, "SubBackgroundImage": "https://a.b/c(1).jpg"},
        {"Top": 0, "Left": 640, "Width": 640, "Height": 720},
    ],
    "BackGroundColor": "#FFA500", "MaxResolutionUserId": "alice", "MediaId": 1, "BackgroundImageUrl": "http://a.b/c.png",
    "PlaceHolderMode": 1, "BackgroundImageRenderMode": 2, "DefaultSubBackgroundImage": "http://a.b/c.jpeg",
    "RenderMode": 0, "MaxResolutionUserAlign": 1, "PureAudioDisableLayout": True,
    "WaterMarkList": [
        {"WaterMarkType": 0, "WaterMarkImage": {
            "WaterMarkUrl": "http://a.b/c.png", "Top": 1, "Left": 2, "Width": 30, "Height": 40}},
        {"WaterMarkType": 1, "WaterMarkChar": {
            "Top": 1, "Left": 2, "Width": 30, "Height": 40, "Chars": "第三诊室 & co", "FontSize": 20,
            "FontColor": "#FF0000", "BackGroundColor": "#00FF00", "Font": "SourceHanSans"}},
        {"WaterMarkType": 2, "WaterMarkTimestamp": {"Pos": 5, "TimeZone": -3, "Font": "Tencent"}},
    ],
}
mixed = {
    **create, "UserId": "mix_bot", "UserSig": TLSSigAPIv2.TLSSigAPIv2(app, app_key).gen_sig("mix_bot", 86400),
    "RecordParams": {"RecordMode": 2, "MaxIdleTime": 30},
    "MixTranscodeParams": {
        "VideoParams": {"Width": 1280, "Height": 720, "Fps": 25, "BitRate": 1500000, "Gop": 2},
        "AudioParams": {"SampleRate": 3, "Channel": 1, "BitRate": 32000},
    },
    "MixLayoutParams": layout,
}
by_task = {"SdkAppId": app, "TaskId": "h123"}
users = {"SdkAppId": app, "UserIds": ["alice", "bob"]}
calls = [
    ("CreateCloudRecording", create),
    ("DescribeCloudRecording", by_task),
    ("ModifyCloudRecording", {**by_task, "SubscribeStreamUserIds": {"UnSubscribeAudioUserIds": ["carol"]}}),
    ("DeleteCloudRecording", by_task),
    ("RemoveUser", {**users, "RoomId": 12}),
    ("RemoveUserByStrRoomId", {**users, "RoomId": "12"}),
    ("DismissRoom", {"SdkAppId": app, "RoomId": 12}),
    ("DismissRoomByStrRoomId", {"SdkAppId": app, "RoomId": "12"}),
]
ways = [(sign, method) for sign in ("TC3-HMAC-SHA256", "HmacSHA1", "HmacSHA256") for method in ("POST", "GET")]
for sign, method in ways:
    box = client(profile(sign, method))
    for action, params in calls:
        note(f"{sign} {method} {action}", lambda: getattr(box, action)(request(action, params)))
    note(f"{sign} {method} mixed", lambda: box.CreateCloudRecording(request("CreateCloudRecording", mixed)))
    note(f"{sign} {method} mixed again",
         lambda: box.ModifyCloudRecording(request("ModifyCloudRecording", {**by_task, "MixLayoutParams": layout})))

describe = request("DescribeCloudRecording", by_task)
note("unsigned payload", lambda: client(profile(unsigned=True)).DescribeCloudRecording(describe))
note("token", lambda: client(token="TOK123").DescribeCloudRecording(describe))
note("english", lambda: client(profile(language="en-US")).DescribeCloudRecording(describe))
note("common client", lambda: CommonClient("trtc", "2019-07-22", credential.Credential(secret_id, secret_key), "",
                                           profile=profile()).call_json("DescribeCloudRecording", by_task))
note("wrong key", lambda: client(key="wrong").DescribeCloudRecording(describe))
note("unknown id", lambda: client(by="AKIDNOBODY").DescribeCloudRecording(describe))
note("unknown action", lambda: client().CreateCloudModeration(models.CreateCloudModerationRequest()))
note("mp4", lambda: client().CreateCloudRecording(
    request("CreateCloudRecording", {**mixed, "RecordParams": {"RecordMode": 2, "OutputFormat": 1}})))
note("no layout list", lambda: client().ModifyCloudRecording(
    request("ModifyCloudRecording", {**by_task, "MixLayoutParams": {**layout, "MixLayoutList": []}})))
note("no room", lambda: client().CreateCloudRecording(
    request("CreateCloudRecording", {name: value for name, value in create.items() if name != "RoomId"})))
note("wrong ticket", lambda: client().CreateCloudRecording(
    request("CreateCloudRecording", {**create, "UserId": "other"})))
note("wrong version", lambda: CommonClient("trtc", "2017-03-12", credential.Credential(secret_id, secret_key), "",
                                           profile=profile()).call_json("DescribeCloudRecording", by_task))
note("skip", lambda: client().call_json("DescribeCloudRecording", by_task, options={"SkipSign": True}))



def dismiss(_):
    try:
        client().DismissRoom(request("DismissRoom", {"SdkAppId": app, "RoomId": 1}))
        return "ok"
    except TencentCloudSDKException as error:
        return error.get_code()


with ThreadPoolExecutor(16) as pool:
    outcomes["flood"] = list(pool.map(dismiss, range(80)))
print(json.dumps(outcomes))
