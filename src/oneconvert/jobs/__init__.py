"""What a running action owns: its workspace, its child processes, its log."""
