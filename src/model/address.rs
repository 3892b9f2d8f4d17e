//! Which addresses belong to the world, and which to somebody's own network.
//!
//! Owns: the ranges, and what the configuration allows in spite of them. Must not touch: names and how they are
//! resolved, interfaces and how they are read.
//! Law: what is not known to be the world's is not, nor is what shares a network with the box. An IPv4 address is the
//! same in whatever IPv6 clothes it comes.
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
    if within(address, allow) {
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

/// The same on a box that is in the networks `own`: a neighbour behind its firewall may have an address of the world.
pub fn refused_beside(own: &[IpNet], address: IpAddr, allow: &[IpNet]) -> Option<&'static str> {
    let neighbour = || (within(address, own) && !within(address, allow)).then_some("in the box's own network");
    refused(address, allow).or_else(neighbour)
}

/// The network that an interface with this address is in. `shared`: others are on its link, too.
pub fn network_of(address: IpAddr, netmask: IpAddr, shared: bool) -> Option<IpNet> {
    match IpNet::with_netmask(address, netmask).ok()? {
        // it would be the whole world
        network if network.prefix_len() == 0 => None,
        // DHCPv6 gives out addresses without a network; those of one link have their first half in common
        IpNet::V6(alone) if shared && alone.prefix_len() == 128 => Ipv6Net::new(alone.addr(), 64).ok().map(IpNet::V6),
        network => Some(network),
    }
}

fn within(address: IpAddr, networks: &[IpNet]) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|network| network.parse().unwrap()).collect()
    }

    fn told(address: &str, allow: &[&str]) -> Option<&'static str> {
        refused(address.parse().unwrap(), &networks(allow))
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

    #[test]
    fn a_neighbour_with_an_address_of_the_world_is_refused_unless_allowed() {
        const NEAR: Option<&str> = Some("in the box's own network");
        // as an interface has them: with bits beyond the prefix
        let own = networks(&["9.9.8.77/23", "2600:1:2:3:a:b:c:d/64", "11.1.1.1/32", "2600:9::1/128"]);
        let told = |address: &str, allow: &[&str]| refused_beside(&own, address.parse().unwrap(), &networks(allow));
        for (address, name) in [
            ("9.9.7.255", None),
            ("9.9.8.0", NEAR),
            ("9.9.8.77", NEAR),
            ("9.9.9.255", NEAR),
            ("9.9.10.0", None),
            ("::ffff:9.9.9.9", NEAR),
            ("::ffff:9.9.10.9", None),
            ("2600:1:2:2:ffff:ffff:ffff:ffff", None),
            ("2600:1:2:3::", NEAR),
            ("2600:1:2:3:ffff:ffff:ffff:ffff", NEAR),
            ("2600:1:2:4::", None),
            ("11.1.1.1", NEAR),
            ("11.1.1.2", None),
            ("2600:9::1", NEAR),
            ("2600:9::2", None),
            // what else an address is goes before
            ("10.0.0.1", Some("private")),
            ("::1", Some("loopback")),
        ] {
            assert_eq!(told(address, &[]), name, "{address}");
        }
        assert_eq!(told("9.9.9.9", &["9.9.9.9/32"]), None);
        assert_eq!(told("::ffff:9.9.9.9", &["9.9.9.9/32"]), None);
        assert_eq!(told("9.9.9.8", &["9.9.9.9/32"]), NEAR);
        assert_eq!(told("2600:1:2:3::9", &["2600:1:2:3::9/128"]), None);
        assert_eq!(told("2600:1:2:3::8", &["2600:1:2:3::9/128"]), NEAR);
    }

    #[test]
    fn an_interface_is_in_the_network_of_its_netmask_and_never_in_all_of_them() {
        for (address, netmask, shared, network) in [
            ("9.9.8.77", "255.255.254.0", true, Some("9.9.8.77/23")),
            ("9.9.8.77", "255.255.255.255", false, Some("9.9.8.77/32")),
            ("9.9.8.77", "255.255.255.255", true, Some("9.9.8.77/32")),
            ("2600:1:2:3::9", "ffff:ffff:ffff:ffff::", true, Some("2600:1:2:3::9/64")),
            ("2600:1:2:3::9", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", false, Some("2600:1:2:3::9/128")),
            // by DHCPv6
            ("2600:1:2:3::9", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", true, Some("2600:1:2:3::9/64")),
            ("9.9.8.77", "0.0.0.0", true, None),
            ("9.9.8.77", "0.0.0.0", false, None),
            ("2600:1:2:3::9", "::", true, None),
            // such a netmask is none
            ("9.9.8.77", "255.0.255.0", true, None),
        ] {
            let seen = network_of(address.parse().unwrap(), netmask.parse().unwrap(), shared);
            let network: Option<IpNet> = network.map(|network| network.parse().unwrap());
            assert_eq!(seen, network, "{address} {netmask} {shared}");
        }
    }
}
