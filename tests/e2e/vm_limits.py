"""What the small VM (user-mode Linux 6.1 of Debian, cgroup v2) cannot run, and why; read by conftest."""

IN_VM = {
    "test_checkpointable.py": "criu does not run on user-mode Linux",
    "test_random_kills": "moments of a kill mean nothing on an emulated clock; run on the host",
    "test_twenty_starts_at_once": "one emulated CPU; run on the host",
    "test_a_forged_source_address_goes_nowhere[2001:db8::99]": "its kernel is built without nftables for IP",
    "test_byte_counts_outlive_a_restart": "its kernel is built without nftables for IP",
    "test_a_page_of_libc_is_in_memory_once": "page frame numbers are hidden there",
    "test_system_calls_that_reach_outside_are_refused": "user-mode Linux answers some calls before the filter",
    "test_packages_install_from_a_repository_of_the_node": "takes minutes there; run on the host",
}
