//! Which addresses belong to the world, and which to somebody's own network.
//!
//! Owns: the ranges, and what the configuration allows in spite of them. Must not touch: names and how they are resolved.
//! Law: what is not known to be the world's is not. An IPv4 address is the same in whatever IPv6 clothes it comes.
//! Sources: the IANA special-purpose registries for IPv4 and IPv6 (RFC 6890), as of 2025.

// `core`: plain values. A socket is what `std` has beside them.
use core::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// IPv4 that is nobody's in the world.
const INNER_V4: &[(Ipv4Addr, u8, &str)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8, "this host"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "private"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "carrier-grade NAT"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "private"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "protocol assignments"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "documentation"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "6to4 relay"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "private"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "benchmarking"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "documentation"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "documentation"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast"),
    // the broadcast address too
    (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved"),
];

/// Holes in 2000::/3, which is all of IPv6 that is the world's.
const INNER_V6: &[([u16; 2], u8, &str)] = &[
    // Teredo, benchmarking, ORCHID …: the first leads to an IPv4 address of the sender's choice
    ([0x2001, 0], 23, "protocol assignments"),
    ([0x2001, 0xdb8], 32, "documentation"),
    ([0x2002, 0], 16, "6to4"),
    ([0x3fff, 0], 20, "documentation"),
];

/// Names of what lies outside 2000::/3, for the message alone.
const NAMED_V6: &[([u16; 2], u8, &str)] = &[
    ([0xfc00, 0], 7, "unique local"),
    ([0xfe80, 0], 10, "link-local"),
    ([0xff00, 0], 8, "multicast"),
    // and what is below it in 64:ff9b:1::/48: an IPv4 address of the sender's choice, behind a translator
    ([0x64, 0xff9b], 32, "NAT64"),
];

/// Why nothing may be fetched from an address; `None`: it may. What `allow` holds is allowed.
pub fn refused(address: IpAddr, allow: &[IpNet]) -> Option<&'static str> {
    // ::ffff:10.0.0.1 connects to 10.0.0.1
    let address = address.to_canonical();
    if allow.iter().any(|network| network.contains(&address)) {
        return None;
    }
    match address {
        IpAddr::V4(v4) => {
            let inside = |(base, prefix, _): &&(Ipv4Addr, u8, &str)| {
                Ipv4Net::new(*base, *prefix).is_ok_and(|network| network.contains(&v4))
            };
            INNER_V4.iter().find(inside).map(|(_, _, name)| *name)
        }
        IpAddr::V6(v6) => {
            let inside = |([a, b], prefix, _): &&([u16; 2], u8, &str)| {
                Ipv6Net::new([*a, *b, 0, 0, 0, 0, 0, 0].into(), *prefix).is_ok_and(|network| network.contains(&v6))
            };
            if v6.is_loopback() {
                return Some("loopback");
            }
            if v6.segments()[0] >> 13 == 1 {
                return INNER_V6.iter().find(inside).map(|(_, _, name)| *name);
            }
            Some(NAMED_V6.iter().find(inside).map_or("reserved", |(_, _, name)| *name))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(address: &str, allow: &[&str]) -> Option<&'static str> {
        let allow: Vec<IpNet> = allow.iter().map(|network| network.parse().unwrap()).collect();
        refused(address.parse().unwrap(), &allow)
    }

    #[test]
    fn what_is_not_the_worlds_is_named() {
        for (address, name) in [
            ("0.0.0.0", "this host"),
            ("0.1.2.3", "this host"),
            ("10.0.0.1", "private"),
            ("10.255.255.255", "private"),
            ("100.64.0.0", "carrier-grade NAT"),
            ("100.100.100.200", "carrier-grade NAT"),
            ("100.127.255.255", "carrier-grade NAT"),
            ("127.0.0.1", "loopback"),
            ("127.255.0.9", "loopback"),
            ("169.254.169.254", "link-local"),
            ("172.16.0.1", "private"),
            ("172.31.255.255", "private"),
            ("192.0.0.8", "protocol assignments"),
            ("192.0.2.1", "documentation"),
            ("192.88.99.1", "6to4 relay"),
            ("192.168.0.1", "private"),
            ("198.18.0.1", "benchmarking"),
            ("198.19.255.255", "benchmarking"),
            ("198.51.100.7", "documentation"),
            ("203.0.113.7", "documentation"),
            ("224.0.0.251", "multicast"),
            ("239.255.255.255", "multicast"),
            ("240.0.0.1", "reserved"),
            ("255.255.255.255", "reserved"),
            ("::", "reserved"),
            ("::1", "loopback"),
            // IPv4-mapped, and the older IPv4-compatible
            ("::ffff:127.0.0.1", "loopback"),
            ("::ffff:10.0.0.1", "private"),
            ("::ffff:169.254.169.254", "link-local"),
            ("::127.0.0.1", "reserved"),
            ("::ffff:0:7f00:1", "reserved"),
            ("64:ff9b::a00:1", "NAT64"),
            ("64:ff9b::808:808", "NAT64"),
            ("64:ff9b:1::a00:1", "NAT64"),
            ("100::1", "reserved"),
            ("2001::1", "protocol assignments"),
            ("2001:2::1", "protocol assignments"),
            ("2001:1ff::1", "protocol assignments"),
            ("2001:db8::1", "documentation"),
            ("2002:a00:1::1", "6to4"),
            ("3fff::1", "documentation"),
            ("3fff:fff::1", "documentation"),
            ("4000::1", "reserved"),
            ("5f00::1", "reserved"),
            ("fc00::1", "unique local"),
            ("fd00:ec2::254", "unique local"),
            ("fe80::1", "link-local"),
            ("febf::1", "link-local"),
            ("fec0::1", "reserved"),
            ("ff02::1", "multicast"),
        ] {
            assert_eq!(told(address, &[]), Some(name), "{address}");
        }
    }

    #[test]
    fn the_world_is_open_up_to_its_edges() {
        for address in [
            "1.0.0.0",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2001:db9::1",
            "2003::1",
            "240e::1",
            "2600::1",
            "3ffe::1",
        ] {
            assert_eq!(told(address, &[]), None, "{address}");
        }
    }

    #[test]
    fn what_is_allowed_is_allowed_and_nothing_beside_it() {
        assert_eq!(told("192.168.7.9", &["192.168.7.0/24"]), None);
        assert_eq!(told("::ffff:192.168.7.9", &["192.168.7.0/24"]), None);
        assert_eq!(told("192.168.8.9", &["192.168.7.0/24"]), Some("private"));
        assert_eq!(told("127.0.0.1", &["127.0.0.1/32"]), None);
        assert_eq!(told("127.0.0.2", &["127.0.0.1/32", "::1/128"]), Some("loopback"));
        assert_eq!(told("::1", &["127.0.0.1/32"]), Some("loopback"));
        assert_eq!(told("fd12::1", &["fd12::/16"]), None);
        assert_eq!(told("10.1.2.3", &["0.0.0.0/0", "::/0"]), None);
    }
}
