"""What the test VMs cannot run, and why; read by conftest there.  A name is a test's, with or without [...], or a file's."""

UML = {
    "test_checkpointable.py": "its kernel is built without CONFIG_CHECKPOINT_RESTORE",
}
DEBIAN: dict[str, str] = {}
CANNOT = {"uml": UML, "debian": DEBIAN}
