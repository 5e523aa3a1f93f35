"""The command line. Each command is a module with `configure(parser)` and `execute(arguments)`."""

__all__ = ["main"]


def main() -> int:
    """The program `wirt`: do what the process's arguments say, and return the exit status."""
    import signal

    # Before there is somebody to put Ctrl-C into a sentence, and after, it ends the process without a
    # traceback; where it is ignored (nohup, a script's background job) it stays so.
    attended = signal.getsignal(signal.SIGINT)
    unattended = signal.SIG_DFL if attended is signal.default_int_handler else attended
    signal.signal(signal.SIGINT, unattended)
    from wirt.cli import entry

    signal.signal(signal.SIGINT, attended)
    try:
        return entry.main()
    finally:
        signal.signal(signal.SIGINT, unattended)
