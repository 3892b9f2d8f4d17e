//! The official Python SDK as the tests' client of the API.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::{ChildStdin, Command};
use tokio::sync::Mutex;

use super::daemon::Daemon;
use super::{ACCESS_KEY, API_ID, API_KEY, APP, APP_KEY, BUCKET, Running, SECRET_KEY, program, project};

/// An error as the SDK raised it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    pub code: String,
    pub message: String,
}

/// A Python process that keeps the SDK loaded.
#[derive(Clone)]
pub struct Sdk {
    running: Arc<Running>,
    /// Its stdin, and how many answers were read.
    line: Arc<Mutex<(ChildStdin, usize)>>,
    /// Of the box, where it is not the one that it was started for.
    endpoint: Option<String>,
}

impl Sdk {
    pub async fn start(daemon: &Daemon) -> Sdk {
        Sdk::with_key(daemon, API_KEY).await
    }

    /// For boxes that are named later, by [`Sdk::of`].
    pub async fn alone() -> Sdk {
        Sdk::of_endpoint("127.0.0.1:9", API_KEY).await
    }

    /// The same process as the client of this box.
    pub fn of(&self, daemon: &Daemon) -> Sdk {
        Sdk { endpoint: Some(daemon.doors.http.to_string()), ..self.clone() }
    }

    /// With another secret key than the box knows, say.
    pub async fn with_key(daemon: &Daemon, secret_key: &str) -> Sdk {
        Sdk::of_endpoint(&daemon.doors.http.to_string(), secret_key).await
    }

    async fn of_endpoint(endpoint: &str, secret_key: &str) -> Sdk {
        let mut command = Command::new(program(".venv/bin/python"));
        command
            .arg("-u")
            .arg(project().join("tests/sdk/drive.py"))
            .args([endpoint, API_ID, secret_key, &APP.to_string(), APP_KEY])
            .stdin(std::process::Stdio::piped());
        let mut running = Running::start("the Python SDK", &mut command);
        let stdin = running.stdin().expect("stdin is piped");
        let sdk = Sdk { running: Arc::new(running), line: Arc::new(Mutex::new((stdin, 0))), endpoint: None };
        sdk.answer(0).await;
        sdk.line.lock().await.1 = 1;
        sdk
    }

    /// The `n`-th line that is JSON (the SDK may print warnings between).
    async fn answer(&self, n: usize) -> Value {
        let lines = &self.running.lines;
        lines
            .wait_for("an answer", |_| {
                lines.all().iter().filter_map(|l| serde_json::from_str::<Value>(l).ok()).filter(Value::is_object).nth(n)
            })
            .await
    }

    async fn ask(&self, mut order: Value) -> Result<Value, ApiError> {
        if let Some(endpoint) = &self.endpoint {
            order["endpoint"] = json!(endpoint);
        }
        let n = {
            let mut line = self.line.lock().await;
            // counted before it is awaited: who gives up waiting leaves the answer to nobody
            line.1 += 1;
            line.0.write_all(format!("{order}\n").as_bytes()).await.expect("the Python process reads");
            line.1 - 1
        };
        let mut answer = self.answer(n).await;
        if let Some(error) = answer.get("error") {
            let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
            return Err(ApiError { code: text("code"), message: text("message") });
        }
        Ok(answer["ok"].take())
    }

    pub async fn call(&self, action: &str, params: Value) -> Result<Value, ApiError> {
        self.ask(json!({ "do": "call", "action": action, "params": params })).await
    }

    /// With another signature (`HmacSHA256`, `HmacSHA1`) or method (`GET`).
    pub async fn call_as(&self, sign: &str, method: &str, action: &str, params: Value) -> Result<Value, ApiError> {
        let order = json!({ "do": "call", "action": action, "params": params, "sign": sign, "method": method });
        self.ask(order).await
    }

    /// By the SDK's `call_json`, for what its types do not know.
    pub async fn call_json(&self, action: &str, params: Value) -> Result<Value, ApiError> {
        self.ask(json!({ "do": "json", "action": action, "params": params })).await
    }

    /// The same by another signature and method: parameters are flattened.
    pub async fn call_json_as(&self, sign: &str, method: &str, action: &str, params: Value) -> Result<Value, ApiError> {
        let order = json!({ "do": "json", "action": action, "params": params, "sign": sign, "method": method });
        self.ask(order).await
    }

    /// A UserSig from Tencent's own generator.
    pub async fn user_sig(&self, user: &str) -> String {
        let sig = self.ask(json!({ "do": "user_sig", "user": user })).await.expect("a UserSig needs no box");
        sig.as_str().expect("a UserSig is text").to_owned()
    }

    /// CreateCloudRecording; `change` edits the plain request. Returns the task's id.
    pub async fn create(&self, room: &str, robot: &str, change: impl FnOnce(&mut Value)) -> Result<String, ApiError> {
        let mut params = create_params(room, robot, &self.user_sig(robot).await);
        change(&mut params);
        let answer = self.call("CreateCloudRecording", params).await?;
        Ok(answer["TaskId"].as_str().expect("Create answers with a TaskId").to_owned())
    }

    pub async fn describe(&self, task: &str) -> Result<Value, ApiError> {
        self.call("DescribeCloudRecording", json!({ "SdkAppId": APP, "TaskId": task })).await
    }

    pub async fn delete(&self, task: &str) -> Result<Value, ApiError> {
        self.call("DeleteCloudRecording", json!({ "SdkAppId": APP, "TaskId": task })).await
    }
}

/// A plain request: a string room, single-stream, sound and picture, S3 by `Vendor` 1, prefix `clinic/day1`.
pub fn create_params(room: &str, robot: &str, user_sig: &str) -> Value {
    json!({
        "SdkAppId": APP,
        "RoomId": room,
        "RoomIdType": 0,
        "UserId": robot,
        "UserSig": user_sig,
        "RecordParams": { "RecordMode": 1, "MaxIdleTime": 30, "StreamType": 0 },
        "StorageParams": { "CloudStorage": {
            "Vendor": 1, "Region": "us-east-1", "Bucket": BUCKET,
            "AccessKey": ACCESS_KEY, "SecretKey": SECRET_KEY, "FileNamePrefix": ["clinic", "day1"],
        } },
    })
}
