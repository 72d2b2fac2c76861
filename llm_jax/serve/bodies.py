"""The frame of a request's body: what is wrong with it is told in OpenAI's shape, by field."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator
from pydantic_core import from_json

from llm_jax.sampling.settings import whole

Whole = Annotated[int, BeforeValidator(whole)]


class ApiError(Exception):
    """Becomes an error object in OpenAI's shape."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None, **headers: str):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def body(self) -> dict[str, Any]:
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status, "invalid_request_error")
        kind = kind if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        return {k: v for k, v in data.items() if v is not None} if isinstance(data, dict) else data


AnyBody = TypeVar("AnyBody", bound=Body)


def parsed(data: bytes, kind: type[AnyBody]) -> AnyBody:
    """The body of a request. Raises ApiError for what is no JSON (nor are NaN and lone surrogates) or no such body."""
    try:
        return kind.model_validate(from_json(data, allow_inf_nan=False))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = "".join(f"[{at}]" if isinstance(at, int) else f".{at}" for at in first["loc"])[:100].removeprefix(".")
        reason = first["msg"].removeprefix("Value error, ").replace("Input should", "must").replace("Field", "field")
        if not field and ":" in reason:  # of the whole body: the reason begins with the field
            field, _, reason = reason.partition(": ")
        raise ApiError(400, f"{field or 'the body'}: {reason}", field or None) from error
    except ValueError as error:
        raise ApiError(400, f"the body is no valid JSON: {error}") from error
