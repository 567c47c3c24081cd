package tenancytest_test

import "testing"

// The example is a test.
func TestNotes(t *testing.T) {
	t.Parallel()
	testNotes(t)
}
