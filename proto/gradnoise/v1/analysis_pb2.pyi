from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RunsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RunRequest(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: str
    def __init__(self, run: _Optional[str] = ...) -> None: ...

class RunReply(_message.Message):
    __slots__ = ("run_info", "summary")
    RUN_INFO_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    run_info: bytes
    summary: ArrowTable
    def __init__(self, run_info: _Optional[bytes] = ..., summary: _Optional[_Union[ArrowTable, _Mapping]] = ...) -> None: ...

class TailRequest(_message.Message):
    __slots__ = ("run", "form", "group", "first_step", "last_step")
    RUN_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    FIRST_STEP_FIELD_NUMBER: _ClassVar[int]
    LAST_STEP_FIELD_NUMBER: _ClassVar[int]
    run: str
    form: str
    group: str
    first_step: int
    last_step: int
    def __init__(self, run: _Optional[str] = ..., form: _Optional[str] = ..., group: _Optional[str] = ..., first_step: _Optional[int] = ..., last_step: _Optional[int] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("run", "form", "group", "after_row")
    RUN_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    AFTER_ROW_FIELD_NUMBER: _ClassVar[int]
    run: str
    form: str
    group: str
    after_row: int
    def __init__(self, run: _Optional[str] = ..., form: _Optional[str] = ..., group: _Optional[str] = ..., after_row: _Optional[int] = ...) -> None: ...

class AlignmentRequest(_message.Message):
    __slots__ = ("run", "part", "metric", "first_step", "last_step", "after_row")
    RUN_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    FIRST_STEP_FIELD_NUMBER: _ClassVar[int]
    LAST_STEP_FIELD_NUMBER: _ClassVar[int]
    AFTER_ROW_FIELD_NUMBER: _ClassVar[int]
    run: str
    part: str
    metric: str
    first_step: int
    last_step: int
    after_row: int
    def __init__(self, run: _Optional[str] = ..., part: _Optional[str] = ..., metric: _Optional[str] = ..., first_step: _Optional[int] = ..., last_step: _Optional[int] = ..., after_row: _Optional[int] = ...) -> None: ...

class FitRequest(_message.Message):
    __slots__ = ("values", "location")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    LOCATION_FIELD_NUMBER: _ClassVar[int]
    values: bytes
    location: bool
    def __init__(self, values: _Optional[bytes] = ..., location: bool = ...) -> None: ...

class ArrowTable(_message.Message):
    __slots__ = ("ipc_stream",)
    IPC_STREAM_FIELD_NUMBER: _ClassVar[int]
    ipc_stream: bytes
    def __init__(self, ipc_stream: _Optional[bytes] = ...) -> None: ...
