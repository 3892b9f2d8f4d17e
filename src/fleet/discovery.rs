//! The box as Home Assistant sees it.
//!
//! Owns: the retained configurations by which it is found. Must not touch: telemetry and state, which it points at.
//! Law: a pure function of the box's name; everything but "online" is unavailable while the box is.
//! Source: Home Assistant's MQTT discovery, <https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery>.

use serde_json::{Value, json};

use super::root;

/// Topics, which are not below the box's own, and what is retained there.
pub(super) fn configs(prefix: &str, box_id: &str) -> Vec<(String, Value)> {
    let node = format!("holdfast-{box_id}");
    let (state, telemetry) = (format!("{}state", root(box_id)), format!("{}telemetry", root(box_id)));
    let online = |yes: &str, no: &str| format!("{{{{ '{yes}' if value_json.online else '{no}' }}}}");
    let config = |component: &str, object: &str, name: &str, more: Value| {
        let mut config = json!({
            "name": name,
            "unique_id": format!("{node}-{object}"),
            "device": {
                "identifiers": [node],
                "name": box_id,
                "model": "holdfast",
                "sw_version": env!("CARGO_PKG_VERSION"),
            },
        });
        if object != "online" {
            config["availability_topic"] = state.as_str().into();
            config["availability_template"] = online("online", "offline").into();
            config["state_topic"] = telemetry.as_str().into();
        }
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        (format!("{prefix}/{component}/{node}/{object}/config"), config)
    };
    let figure = |path: &str, class: &str, unit: &str| {
        json!({
            "device_class": class,
            "unit_of_measurement": unit,
            "state_class": "measurement",
            "value_template": format!("{{{{ value_json.{path} }}}}"),
        })
    };
    vec![
        config(
            "binary_sensor",
            "online",
            "Online",
            json!({ "device_class": "connectivity", "state_topic": state, "value_template": online("ON", "OFF") }),
        ),
        config(
            "binary_sensor",
            "recording",
            "Recording",
            json!({
                "device_class": "running",
                "value_template": "{{ 'ON' if value_json.recording else 'OFF' }}",
            }),
        ),
        config(
            "binary_sensor",
            "problem",
            "Problem",
            json!({
                "device_class": "problem",
                "value_template": "{{ 'ON' if value_json.health.state in ['degraded', 'failed'] else 'OFF' }}",
                "json_attributes_topic": telemetry,
                "json_attributes_template": "{{ value_json.health | tojson }}",
            }),
        ),
        config("sensor", "disk_free", "Disk free", figure("disk.free_bytes", "data_size", "B")),
        config("sensor", "oldest", "Oldest not uploaded", figure("spool.oldest_seconds", "duration", "s")),
        config("sensor", "temperature", "Temperature", figure("temperature_celsius", "temperature", "°C")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entity_is_of_one_device_and_points_at_what_the_box_sends() {
        let all = configs("homeassistant", "b-1");
        assert_eq!(all.len(), 6);
        for (topic, config) in &all {
            let (component, object) = topic
                .strip_prefix("homeassistant/")
                .and_then(|rest| rest.strip_suffix("/config"))
                .and_then(|rest| rest.split_once("/holdfast-b-1/"))
                .unwrap_or_else(|| panic!("{topic}"));
            assert!(["sensor", "binary_sensor"].contains(&component));
            assert_eq!(config["unique_id"], format!("holdfast-b-1-{object}"));
            assert_eq!(config["device"]["identifiers"], json!(["holdfast-b-1"]));
            let points = config["state_topic"].as_str().unwrap();
            assert_eq!(points, if object == "online" { "holdfast/b-1/state" } else { "holdfast/b-1/telemetry" });
            assert_eq!(config.get("availability_topic").is_some(), object != "online");
            let template = config["value_template"].as_str().unwrap();
            assert!(template.starts_with("{{ ") && template.ends_with(" }}"), "{template}");
        }
    }
}
