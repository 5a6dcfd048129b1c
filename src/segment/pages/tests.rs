//! Huge pages of the real kernel, where it has any; what it says where it has none.

use super::*;
use crate::incarnation::Incarnation;

fn pages(huge: HugePages) -> Pages {
    Pages {
        huge,
        ..Pages::default()
    }
}

fn create(pages: Pages) -> Result<Owned, CreateError> {
    let geometry = Geometry::new(64, 128, 4096, None).unwrap();
    let header = Header::new(&geometry, Incarnation::random().unwrap(), "test", 1, 1);
    Owned::create(header, geometry, Access::default(), pages)
}

/// Every refusal is one of these, whatever the machine has.
fn is_clear(error: &CreateError) -> bool {
    let told = error.to_string();
    [
        "nr_hugepages`",
        "CAP_IPC_LOCK",
        "this kernel ",
        "shmem_enabled`",
        "cgroup (hugetlb",
    ]
    .iter()
    .any(|advice| told.contains(advice))
}

#[test]
fn huge_pages_that_are_required_are_had_or_refused_with_what_to_do() {
    match create(pages(HugePages::Require)) {
        Ok(owned) => {
            let page_bytes = owned.huge_page_bytes().unwrap();
            let reader = Segment::attach(owned.share().id().unwrap()).unwrap();
            reader.prefault();
            assert_eq!(reader.status().unwrap().unwrap().bytes as u64 % page_bytes, 0);
            assert_eq!(reader.geometry(), owned.share().geometry());
        }
        Err(error) => assert!(
            matches!(error, CreateError::HugePages { .. }) && is_clear(&error),
            "{error}"
        ),
    }
}

#[test]
fn who_only_tries_gets_a_segment_in_any_case() {
    let owned = create(pages(HugePages::Try)).unwrap();

    let reader = Segment::attach(owned.share().id().unwrap()).unwrap();

    assert_eq!(reader.geometry(), owned.share().geometry());
}

#[test]
fn transparent_pages_are_a_matter_of_the_kernels_setting() {
    match create(pages(HugePages::Transparent)) {
        Ok(owned) => assert!(owned.huge_page_bytes().is_some_and(u64::is_power_of_two)),
        Err(error) => assert!(is_clear(&error), "{error}"),
    }
}

#[test]
fn size_that_the_kernel_does_not_have_is_answered_with_those_that_it_has() {
    for huge_bytes in [0, 3 << 20, 1 << 13, 1 << 63] {
        let asked = Pages {
            huge_bytes: Some(huge_bytes),
            ..pages(HugePages::Require)
        };

        let error = create(asked).unwrap_err();

        // A user that may have none is told that first.
        let told = error.to_string();
        assert!(
            told.contains("this kernel has") || told.contains("kernel.shm"),
            "{told}"
        );
    }
}

#[test]
fn each_refusal_says_its_own_remedy() {
    let sized = SizedPages::Explicit { page_bytes: 2 << 20 };
    let told = |errno| {
        let error = sized.explain(6 << 20, io::Error::from_raw_os_error(errno));
        assert!(std::error::Error::source(&error).is_some());
        error.to_string()
    };

    assert!(
        told(libc::ENOMEM).starts_with("cannot have 3 huge pages of 2M: "),
        "{}",
        told(libc::ENOMEM)
    );
    assert!(told(libc::ENOMEM).contains("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages`"));
    assert!(told(libc::EPERM).contains("vm.hugetlb_shm_group"));
    assert!(told(libc::EINVAL).contains("this kernel has"));
    assert!(told(libc::EFAULT).contains("hugetlb.2MB.max"));
    assert!(told(libc::ENOSPC).contains("kernel.shmmni"));
}

#[test]
fn setting_in_force_is_the_one_in_brackets() {
    assert_eq!(
        selected("always within_size advise [never] deny force\n"),
        Some("never")
    );
    assert_eq!(selected("[always] madvise never"), Some("always"));
    assert_eq!(selected(""), None);
    assert!(transparent_off(Some("never")).contains("echo advise"));
    assert!(transparent_off(None).contains("CONFIG_TRANSPARENT_HUGEPAGE"));
}

#[test]
fn sizes_are_told_in_the_largest_unit_that_fits() {
    let told = [2 << 20, 1 << 30, 64 << 10, 1000, 0].map(binary_size);

    assert_eq!(told, ["2M", "1G", "64K", "1000", "0"]);
}

#[test]
fn locked_segment_is_locked_in_the_kernels_eyes() {
    const SHM_LOCKED: u32 = 0o2000;
    let mode = |locked| {
        let owned = create(Pages {
            locked,
            ..Pages::default()
        });
        owned.map(|owned| u32::from(raw_status(owned.share().id().unwrap()).unwrap().shm_perm.mode))
    };

    assert_eq!(mode(false).unwrap() & SHM_LOCKED, 0);
    match mode(true) {
        Ok(mode) => assert_eq!(mode & SHM_LOCKED, SHM_LOCKED),
        // Somebody set the limit to nothing.
        Err(error) => assert!(error.to_string().contains("ulimit -l"), "{error}"),
    }
}
