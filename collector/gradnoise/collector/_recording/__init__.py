"""What is recorded and how it reaches the disk, whatever framework it comes from. Neither torch nor gRPC."""
