//! The code table: every way in which a call may fail, and what is said of it outside and inside.
//!
//! Owns: `Code`, `ApiError`, the mapping of the actor's errors. Must not touch: HTTP.
//! Law: an outcome of the actor has exactly one code (no catch-all arm); what is said outside holds no value that the
//! caller sent and nothing of the box's inside.
//! Sources: API.md §1.10, §2.5; HOUSE §9. The table is golden: `tests/golden/error_codes.txt`.

use std::borrow::Cow;

use crate::model::signature::SignatureError;
use crate::rooms;

/// Who has to do something about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whose {
    Caller,
    Box,
}

/// A code of the API. `Missing` and `Invalid` carry the field's own name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    AuthInvalidAuthorization,
    AuthSecretIdNotFound,
    AuthSignatureExpire,
    AuthSignatureFailure,
    NotAllowed,
    RestrictedConcurrency,
    RoomNotExist,
    CrInternalError,
    InvalidAction,
    /// `InvalidParameter.<field>`
    Invalid(&'static str),
    BodyParamsError,
    UrlParamsError,
    CheckContentFailed,
    CheckSuffixFailed,
    OutOfRange,
    InvalidRequest,
    /// `MissingParameter.<field>`
    Missing(&'static str),
    NoSuchVersion,
    RequestLimitExceeded,
    RequestSizeLimitExceeded,
    RequestRejection,
    ResourceNotFound,
    UnauthorizedSdkAppId,
    UnknownParameter,
    UnsupportedOperation,
    UnsupportedProtocol,
}

impl Code {
    /// Every code that carries no field.
    pub const PLAIN: [Code; 24] = [
        Code::AuthInvalidAuthorization,
        Code::AuthSecretIdNotFound,
        Code::AuthSignatureExpire,
        Code::AuthSignatureFailure,
        Code::NotAllowed,
        Code::RestrictedConcurrency,
        Code::RoomNotExist,
        Code::CrInternalError,
        Code::InvalidAction,
        Code::BodyParamsError,
        Code::UrlParamsError,
        Code::CheckContentFailed,
        Code::CheckSuffixFailed,
        Code::OutOfRange,
        Code::InvalidRequest,
        Code::NoSuchVersion,
        Code::RequestLimitExceeded,
        Code::RequestSizeLimitExceeded,
        Code::RequestRejection,
        Code::ResourceNotFound,
        Code::UnauthorizedSdkAppId,
        Code::UnknownParameter,
        Code::UnsupportedOperation,
        Code::UnsupportedProtocol,
    ];

    /// As it stands in the answer.
    pub fn text(self) -> Cow<'static, str> {
        let plain = match self {
            Code::Missing(field) => return Cow::Owned(format!("MissingParameter.{field}")),
            Code::Invalid(field) => return Cow::Owned(format!("InvalidParameter.{field}")),
            Code::AuthInvalidAuthorization => "AuthFailure.InvalidAuthorization",
            Code::AuthSecretIdNotFound => "AuthFailure.SecretIdNotFound",
            Code::AuthSignatureExpire => "AuthFailure.SignatureExpire",
            Code::AuthSignatureFailure => "AuthFailure.SignatureFailure",
            Code::NotAllowed => "FailedOperation.NotAllowed",
            Code::RestrictedConcurrency => "FailedOperation.RestrictedConcurrency",
            Code::RoomNotExist => "FailedOperation.RoomNotExist",
            Code::CrInternalError => "InternalError.CRInternalError",
            Code::InvalidAction => "InvalidAction",
            Code::BodyParamsError => "InvalidParameter.BodyParamsError",
            Code::UrlParamsError => "InvalidParameter.UrlParamsError",
            Code::CheckContentFailed => "InvalidParameter.CheckContentFailed",
            Code::CheckSuffixFailed => "InvalidParameter.CheckSuffixFailed",
            Code::OutOfRange => "InvalidParameter.OutOfRange",
            Code::InvalidRequest => "InvalidRequest",
            Code::NoSuchVersion => "NoSuchVersion",
            Code::RequestLimitExceeded => "RequestLimitExceeded",
            Code::RequestSizeLimitExceeded => "RequestSizeLimitExceeded",
            Code::RequestRejection => "ResourceInsufficient.RequestRejection",
            Code::ResourceNotFound => "ResourceNotFound",
            Code::UnauthorizedSdkAppId => "UnauthorizedOperation.SdkAppId",
            Code::UnknownParameter => "UnknownParameter",
            Code::UnsupportedOperation => "UnsupportedOperation",
            Code::UnsupportedProtocol => "UnsupportedProtocol",
        };
        Cow::Borrowed(plain)
    }

    pub fn whose(self) -> Whose {
        match self {
            Code::CrInternalError | Code::RequestRejection => Whose::Box,
            _ => Whose::Caller,
        }
    }

    /// Whether the same request may succeed later.
    pub fn retryable(self) -> bool {
        matches!(
            self,
            Code::CrInternalError | Code::RequestRejection | Code::RequestLimitExceeded | Code::RestrictedConcurrency
        )
    }
}

/// A call that failed: `outside` is for the caller, `inside` for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    pub code: Code,
    pub outside: String,
    pub inside: Option<String>,
}

impl ApiError {
    pub fn new(code: Code, outside: impl Into<String>) -> ApiError {
        ApiError { code, outside: outside.into(), inside: None }
    }

    pub fn with_inside(mut self, inside: impl Into<String>) -> ApiError {
        self.inside = Some(inside.into());
        self
    }

    pub fn missing(field: &'static str, path: &str) -> ApiError {
        ApiError::new(Code::Missing(field), format!("{path} is required and missing"))
    }

    /// `rule` goes on from the field's name: "must be …".
    pub fn invalid(field: &'static str, path: &str, rule: &str) -> ApiError {
        ApiError::new(Code::Invalid(field), format!("{path} {rule}"))
    }

    /// What the box does not do (yet); never taken and then ignored.
    pub fn unsupported(outside: &str) -> ApiError {
        ApiError::new(Code::UnsupportedOperation, outside)
    }
}

impl From<SignatureError> for ApiError {
    fn from(error: SignatureError) -> ApiError {
        let code = match error {
            SignatureError::Malformed(_) => Code::AuthInvalidAuthorization,
            SignatureError::Expired(_) => Code::AuthSignatureExpire,
            SignatureError::Mismatch => Code::AuthSignatureFailure,
        };
        ApiError::new(code, error.to_string())
    }
}

impl From<rooms::Error> for ApiError {
    fn from(error: rooms::Error) -> ApiError {
        let inside = error.to_string();
        let (code, outside) = match error {
            rooms::Error::TaskUnknown => {
                (Code::ResourceNotFound, "TaskId names no recording task, or one that has ended")
            }
            rooms::Error::RoomUnknown => (Code::RoomNotExist, "RoomId names no room that somebody is in"),
            rooms::Error::TooManyTasks { .. } => {
                (Code::RestrictedConcurrency, "as many recording tasks are running as the box takes at once")
            }
            rooms::Error::BoardFull(why) => {
                // numbers of the box, so that the caller knows what would fit
                let outside = format!("the box has no room for this mixed recording: {why}");
                return ApiError::new(Code::RestrictedConcurrency, outside).with_inside(inside);
            }
            rooms::Error::RecorderInUse => {
                (Code::Invalid("UserId"), "UserId must not be the id of somebody who is in the room")
            }
            rooms::Error::CallsExpired => {
                (Code::ResourceNotFound, "the time within which TaskId takes calls (ResourceExpiredHour) is over")
            }
            rooms::Error::NotMixed => {
                (Code::NotAllowed, "MixLayoutParams is for mixed recordings, and TaskId records single streams")
            }
            rooms::Error::DiskFull(_) => {
                (Code::RequestRejection, "the disk of the box is nearly full: it takes no new recordings")
            }
            rooms::Error::DiskFailed(_) => (Code::CrInternalError, "the disk of the box fails: nothing is recorded"),
            rooms::Error::Busy => (Code::RequestRejection, "the box has more requests waiting than it takes"),
            rooms::Error::ShuttingDown => (Code::RequestRejection, "the box is shutting down"),
            rooms::Error::Store(_) => (Code::CrInternalError, "the index of the box refused; try again"),
            rooms::Error::Spool(_) => (Code::CrInternalError, "the disk of the box refused; try again"),
        };
        ApiError::new(code, outside).with_inside(inside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_inside_is_told_outside() {
        let error = ApiError::from(rooms::Error::Store("/var/lib/holdfast/index: EIO".into()));
        assert_eq!(error.code, Code::CrInternalError);
        assert!(!error.outside.contains("EIO"));
        assert!(error.inside.is_some_and(|inside| inside.contains("EIO")));
    }

    #[test]
    fn later_means_what_the_caller_may_repeat() {
        assert!(Code::CrInternalError.retryable());
        assert!(!Code::Invalid("RoomId").retryable());
        assert_eq!(Code::Invalid("RoomId").text(), "InvalidParameter.RoomId");
        assert_eq!(Code::Missing("TaskId").text(), "MissingParameter.TaskId");
    }
}
