def client_address(get_response):
    """Put the address that the proxy in front of us saw into REMOTE_ADDR.

    Only the last entry is the proxy's own word; a client can send the ones before.
    """

    def middleware(request):
        forwarded = request.META.get("HTTP_X_FORWARDED_FOR", "")
        if address := forwarded.rpartition(",")[2].strip():
            request.META["REMOTE_ADDR"] = address
        return get_response(request)

    return middleware
