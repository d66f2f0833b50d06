"""Changes of one S3 bucket, through botocore, which resolves the credentials of every S3 client here.

Its retries are off, as in every client. The default client, obstore, has no calls for single parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import botocore.exceptions as boto_errors
from botocore import UNSIGNED
from botocore.config import Config

from tracekit.backends.objects import failures
from tracekit.backends.objects.aws import AwsSettings, credential_errors
from tracekit.backends.objects.failures import Failure
from tracekit.backends.objects.options import Transport
from tracekit.errors import BackendError, ErrorClass

__all__ = ["S3Changes"]

_CONNECTIONS = 256


class S3Changes:
    """One bucket."""

    errors: tuple[type[Exception], ...] = (boto_errors.BotoCoreError, boto_errors.ClientError, OSError)

    def __init__(self, bucket: str, settings: AwsSettings, options: Transport) -> None:
        self._bucket = bucket
        virtual, _ = settings.style(bucket)
        config = Config(
            retries={"total_max_attempts": 1},
            connect_timeout=options.connect_timeout_s,
            read_timeout=options.timeout_s,
            max_pool_connections=_CONNECTIONS,
            signature_version=UNSIGNED if settings.anonymous else None,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "virtual" if virtual else "path"},
        )
        try:
            self._client = settings.session.create_client(
                "s3",
                endpoint_url=settings.endpoint,
                region_name=settings.region,
                config=config,
                verify=settings.ca_bundle,
            )
        except credential_errors() as error:
            raise BackendError(
                f"S3 cannot be written: {failures.one_line(str(error))}",
                "check the AWS settings",
                ErrorClass.PERMISSION,
            ) from None

    def relocate(self, region: str) -> bool:
        """Return False: the region is to be given."""
        return False

    def begin(self, key: str) -> str:
        return str(self._call("create_multipart_upload", Key=key)["UploadId"])

    def part(self, key: str, upload: str, number: int, data: memoryview) -> str:
        sent = self._call("upload_part", Key=key, UploadId=upload, PartNumber=number, Body=bytes(data))
        return str(sent["ETag"])

    def complete(self, key: str, upload: str, parts: Sequence[tuple[int, str]]) -> None:
        named = [{"PartNumber": number, "ETag": tag} for number, tag in parts]
        self._call("complete_multipart_upload", Key=key, UploadId=upload, MultipartUpload={"Parts": named})

    def abort(self, key: str, upload: str) -> None:
        self._call("abort_multipart_upload", Key=key, UploadId=upload)

    def copy(self, key: str, to_container: str, to_key: str) -> None:
        source = {"Bucket": self._bucket, "Key": key}
        self._client.copy_object(Bucket=to_container, Key=to_key, CopySource=source)

    def delete(self, key: str) -> None:
        self._call("delete_object", Key=key)

    def failure(self, error: Exception) -> Failure:
        if isinstance(error, boto_errors.ClientError):
            answer = error.response.get("Error", {})
            code = str(answer.get("Code", ""))
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            return failures.from_status(
                status, code="" if code.isdigit() else code, message=answer.get("Message", "")
            )
        if isinstance(error, boto_errors.NoCredentialsError | boto_errors.PartialCredentialsError):
            return failures.credentials_failure(str(error))
        if isinstance(error, boto_errors.ConnectTimeoutError | boto_errors.EndpointConnectionError):
            return failures.unreachable("no connection")
        if isinstance(error, boto_errors.ReadTimeoutError):
            return failures.timeout("timed out")
        if isinstance(error, boto_errors.HTTPClientError | OSError):
            return failures.unreachable("the connection broke off")
        return Failure(ErrorClass.IO_ERROR, failures.one_line(str(error)))

    def close(self) -> None:
        self._client.close()

    def _call(self, operation: str, **arguments: Any) -> Any:
        return getattr(self._client, operation)(Bucket=self._bucket, **arguments)
