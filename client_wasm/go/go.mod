module fl-client

go 1.21
