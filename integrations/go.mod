module github.com/tenement-go/tenement/integrations

go 1.26.0

replace github.com/tenement-go/tenement => ..
