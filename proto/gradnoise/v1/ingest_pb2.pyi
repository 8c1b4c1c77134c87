from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OpenRequest(_message.Message):
    __slots__ = ("run_info", "producer", "schema_version")
    RUN_INFO_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    run_info: bytes
    producer: str
    schema_version: int
    def __init__(self, run_info: _Optional[bytes] = ..., producer: _Optional[str] = ..., schema_version: _Optional[int] = ...) -> None: ...

class TableState(_message.Message):
    __slots__ = ("table", "next_sequence")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    NEXT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    table: str
    next_sequence: int
    def __init__(self, table: _Optional[str] = ..., next_sequence: _Optional[int] = ...) -> None: ...

class OpenResponse(_message.Message):
    __slots__ = ("tables", "schema_versions", "max_payload_bytes", "credit_bytes")
    TABLES_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    CREDIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    tables: _containers.RepeatedCompositeFieldContainer[TableState]
    schema_versions: _containers.RepeatedScalarFieldContainer[int]
    max_payload_bytes: int
    credit_bytes: int
    def __init__(self, tables: _Optional[_Iterable[_Union[TableState, _Mapping]]] = ..., schema_versions: _Optional[_Iterable[int]] = ..., max_payload_bytes: _Optional[int] = ..., credit_bytes: _Optional[int] = ...) -> None: ...

class AppendRequest(_message.Message):
    __slots__ = ("run", "producer", "table", "sequence", "payload")
    RUN_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    run: str
    producer: str
    table: str
    sequence: int
    payload: bytes
    def __init__(self, run: _Optional[str] = ..., producer: _Optional[str] = ..., table: _Optional[str] = ..., sequence: _Optional[int] = ..., payload: _Optional[bytes] = ...) -> None: ...

class AppendResponse(_message.Message):
    __slots__ = ("ack", "nack")
    ACK_FIELD_NUMBER: _ClassVar[int]
    NACK_FIELD_NUMBER: _ClassVar[int]
    ack: Ack
    nack: Nack
    def __init__(self, ack: _Optional[_Union[Ack, _Mapping]] = ..., nack: _Optional[_Union[Nack, _Mapping]] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("table", "next_sequence")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    NEXT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    table: str
    next_sequence: int
    def __init__(self, table: _Optional[str] = ..., next_sequence: _Optional[int] = ...) -> None: ...

class Nack(_message.Message):
    __slots__ = ("table", "sequence", "code", "message", "expected_sequence", "retry_after_ms")
    class Code(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CODE_UNSPECIFIED: _ClassVar[Nack.Code]
        INVALID: _ClassVar[Nack.Code]
        CONFLICT: _ClassVar[Nack.Code]
        GAP: _ClassVar[Nack.Code]
        UNAVAILABLE: _ClassVar[Nack.Code]
    CODE_UNSPECIFIED: Nack.Code
    INVALID: Nack.Code
    CONFLICT: Nack.Code
    GAP: Nack.Code
    UNAVAILABLE: Nack.Code
    TABLE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    table: str
    sequence: int
    code: Nack.Code
    message: str
    expected_sequence: int
    retry_after_ms: int
    def __init__(self, table: _Optional[str] = ..., sequence: _Optional[int] = ..., code: _Optional[_Union[Nack.Code, str]] = ..., message: _Optional[str] = ..., expected_sequence: _Optional[int] = ..., retry_after_ms: _Optional[int] = ...) -> None: ...
