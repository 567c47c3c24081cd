// Package integrations holds the tests of the library under the tools that people use with it. It is a module of its own,
// so that whoever imports the library does not get the tools.
package integrations
