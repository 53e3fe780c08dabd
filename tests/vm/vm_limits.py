"""What the test VMs do not run, and why; read by conftest there.  A name is a test's, with or without [...], or a file's."""

NO_CPUSET = "its kernel is built without SMP and therefore has no cpuset controller"
NO_NFTABLES = "its kernel is built without nftables for IP"
NO_CRIU = "its kernel is built without CONFIG_CHECKPOINT_RESTORE"
NO_I386 = "its kernel takes the numbers of 32-bit system calls for 64-bit ones"
UML = {
    **dict.fromkeys(
        (
            "test_chkpnt.py",
            "test_chkpnt_carried.py",
            "test_chkpnt_check.py",
            "test_chkpnt_kill.py",
            "test_chkpnt_steps.py",
            "test_chkpnt_terminals.py",
            "test_migrate_live.py",
            "test_migrate_memory.py",
            "test_migrate_newid.py",
            "test_chkpnt_rows.py",
            "test_services.py",
        ),
        NO_CRIU,
    ),
    "test_a_snapshot_with_memory": NO_CRIU,
    "test_a_ct_goes_on_when_its_snapshot_is_killed": NO_CRIU,
    "test_procfs.py": "no criu; and reads of stat and loadavg end in EIO there, which is not understood yet",
    "test_suspended_at_shutdown_and_back_at_boot": NO_CRIU,
    "test_a_restored_ct_is_the_daemons_child": NO_CRIU,
    "test_the_rate_holds_after_a_restore": NO_CRIU,
    "test_killed_at_a_system_call": "its ptrace(2) has no PTRACE_GET_SYSCALL_INFO; test_killed_in_the_midst kills by the clock",
    "test_strikes.py": "its ptrace(2) has no PTRACE_GET_SYSCALL_INFO; test_kill.py kills by the clock there",
    "test_cpumask_says_which": NO_CPUSET,
    "test_what_compare_finds": "two changes within one tick of its clock (10 ms) have one time",
    "test_hundreds_of_cts_are_listed_at_once": "it asserts a time, which means nothing there",
    "test_rule06_system_calls_that_reach_outside_are_refused[i386]": NO_I386,
    "test_rule06_arguments_that_reach_outside_are_refused[i386]": NO_I386,
    "test_rule06_no_socket_of_the_hypervisor_by_socketcall": NO_I386,
    "test_a_page_of_libc_is_in_memory_once": "twenty Debian systems at once take more than five minutes there",
    "test_nft_works_inside": NO_NFTABLES,
    "test_iptables_works_inside": NO_NFTABLES,
    "test_running_without_save[--ipadd-]": NO_NFTABLES,
    "test_a_flushed_ruleset_is_made_again_for_all": NO_NFTABLES,
    "test_changes_to_a_running_ct_are_what_a_start_makes": NO_NFTABLES,
    "test_with_the_last_address_venet0_goes_and_comes_back": NO_NFTABLES,
    "test_counts_are_not_added_twice_by_a_killed_stop": NO_NFTABLES,
    "test_elements_are_what_nft_shows": NO_NFTABLES,
    "test_what_nft_put_is_found_and_taken": NO_NFTABLES,
    "test_a_transaction_is_all_or_nothing": NO_NFTABLES,
    "test_a_missing_table_is_enoent": NO_NFTABLES,
    "test_a_counter_is_what_nft_shows": NO_NFTABLES,
    "test_byte_counts_outlive_a_restart": NO_NFTABLES,
}
DEBIAN: dict[str, str] = {
    "test_a_service_with_a_watchdog": "a dump takes longer there than the three seconds of its watchdog",
    "test_hundreds_of_cts_are_listed_at_once": "it asserts a time, which means nothing there",
}
CANNOT = {"uml": UML, "debian": DEBIAN}

# Left out of "make test" for its length; "make soak" and tests/vm/run run them in the VM too.
SAME = "left out for its length, the same on both cgroup versions: make soak runs it"
SKIPPED = dict.fromkeys(
    (
        # words, archives, installation
        "test_archive_hostile.py",
        "test_clients.py",
        "test_command_line.py",
        "test_create_steps.py",
        "test_destroy_effects.py",
        "test_exec_words.py",
        "test_config_cli.py",
        "test_exit_codes.py",
        "test_ploop.py",
        "test_guest_files.py",
        "test_install.py",
        "test_locking.py",
        "test_output_routing.py",
        "test_startup.py",
        "test_stored_forms.py",
        "test_templates.py",
        # the node daemon, boot and shutdown of the node
        "test_booting.py",
        "test_eventd.py",
        # terminals and scripts
        "test_action_scripts.py",
        "test_distscripts.py",
        "test_enter.py",
        "test_hostile_template.py",
        "test_pty.py",
        "test_security_files.py",
        "test_security_streams.py",
        # networks beyond the CT's own, other nodes
        "test_guest_network.py",
        "test_migrate_check.py",
        "test_migrate.py",
        "test_migrate_faults.py",
        "test_migrate_from_openvz.py",
        "test_neighbours.py",
        "test_netfilter.py",
        "test_network_programs.py",
        "test_uplink.py",
        "test_surroundings.py",
        # the pacer's other rate, and who else is killed
        "test_above_ram_it_grows_at_the_rate[20]",
        "test_killed_it_leaves_nobody_frozen[daemon]",
        "test_a_dead_pacer_s_ct_is_let_go_by_the_next_daemon",
        "test_page_cache_is_not_paid_for",
        "test_ram_is_changed_while_it_runs",
        # events that no cgroup has a part in, and one that takes long to come
        "test_a_slow_processor",
        "test_commands_that_fail",
        "test_an_interrupted_command_is_none",
        "test_a_migration_takes_it_along_and_a_failed_one_is_told",
        # boots of whole systems
        "test_a_system_that_nobody_uses_is_idle",
        "test_a_careful_admins_umask_stays_outside",
        "test_wait_says_what_it_waits_for",
    ),
    SAME,
)


def reasons(kind: str, whole: bool) -> dict[str, str]:
    """Return {name: why it does not run} in a VM of *kind*; *whole*: leave out nothing that it can run."""
    return CANNOT[kind] if whole else SKIPPED | CANNOT[kind]
