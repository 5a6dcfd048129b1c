//! The number of a group of users, by its name (group(5)).

use std::fs;

/// Reads a group's number, or looks up its name in `/etc/group`.
pub fn number_of(group: &str) -> Result<u32, String> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let list = fs::read_to_string("/etc/group").map_err(|error| format!("cannot read /etc/group: {error}"))?;
    find(&list, group).ok_or_else(|| {
        format!("no such group in /etc/group; if another service knows it, give its number from `getent group {group}`")
    })
}

fn find(list: &str, group: &str) -> Option<u32> {
    list.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() == Some(group) {
            fields.nth(1)?.parse().ok()
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let list = "root:x:0:\nadm:x:4:syslog,alice\nbroken\nadmin:x:50:\n";

        assert_eq!(find(list, "adm"), Some(4));
        assert_eq!(find(list, "admin"), Some(50));
        assert_eq!(find(list, "ad"), None);
        assert_eq!(find(list, "broken"), None);
        assert_eq!(number_of("1234"), Ok(1234));
        assert_eq!(number_of("root"), Ok(0));
    }
}
