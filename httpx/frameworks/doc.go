// Package frameworks holds the tests of package httpx under routers other than http.ServeMux. It is a module of its own,
// so that whoever imports the library does not get the routers.
package frameworks
