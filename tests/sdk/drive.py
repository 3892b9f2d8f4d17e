"""Drives a box with the official Python SDK, unmodified: one JSON request per line in, one JSON answer per line out.

{"do": "call", "action": "CreateCloudRecording", "params": {…}}  → {"ok": {…}} or {"error": {"code", "message"}}
"endpoint": "host:port" in a call asks another box.
{"do": "json", "action": "…", "params": {…}}                    → the same, by the SDK's call_json: for actions of the box's own
{"do": "user_sig", "user": "…", "expire": 3600}                 → {"ok": "…"}
Arguments: endpoint (host:port), secret id, secret key, SdkAppId, the app's secret key.
"""

import json
import sys

import TLSSigAPIv2
from tencentcloud.common import credential
from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException
from tencentcloud.common.profile.client_profile import ClientProfile
from tencentcloud.common.profile.http_profile import HttpProfile
from tencentcloud.trtc.v20190722 import models, trtc_client

endpoint, secret_id, secret_key, app, app_key = sys.argv[1:6]


def client(sign_method, http_method, box):
    http = HttpProfile(protocol="http", endpoint=box, reqMethod=http_method, reqTimeout=30)
    profile = ClientProfile(httpProfile=http, signMethod=sign_method)
    return trtc_client.TrtcClient(credential.Credential(secret_id, secret_key), "ap-guangzhou", profile)


def call(order):
    box = client(order.get("sign", "TC3-HMAC-SHA256"), order.get("method", "POST"), order.get("endpoint", endpoint))
    request = getattr(models, order["action"] + "Request")()
    request.from_json_string(json.dumps(order["params"]))
    try:
        answer = getattr(box, order["action"])(request)
    except TencentCloudSDKException as error:
        return {"error": {"code": error.get_code(), "message": error.get_message(), "id": error.get_request_id()}}
    return {"ok": json.loads(answer.to_json_string())}


def call_json(order):
    box = client(order.get("sign", "TC3-HMAC-SHA256"), order.get("method", "POST"), order.get("endpoint", endpoint))
    try:
        return {"ok": box.call_json(order["action"], order["params"])["Response"]}
    except TencentCloudSDKException as error:
        return {"error": {"code": error.get_code(), "message": error.get_message(), "id": error.get_request_id()}}


def answer(order):
    if order["do"] == "json":
        return call_json(order)
    if order["do"] == "user_sig":
        return {"ok": TLSSigAPIv2.TLSSigAPIv2(int(app), app_key).gen_sig(order["user"], order.get("expire", 86400))}
    return call(order)


print(json.dumps({"ok": "ready"}), flush=True)
for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
