"""The gRPC contract: ``ingest.proto`` and ``analysis.proto``, with their generated code (``make proto``)."""
