package transfer_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/tenement-go/tenement/backend"
)

// A file's name is what the system takes for one, bytes that are no UTF-8 among them, and so is a directory's.
func TestFilesOfAnyName(t *testing.T) {
	onEach(t, func(t *testing.T, d backend.Dialect) {
		a := newPlace(t, d, blog, withFiles(t))
		thor := a.create(t, "thor")
		names := []string{"caf\xe9.txt", "d\xe9p\xf4t/caf\xe9.txt", `a\b: c?`}
		for _, name := range names {
			a.write(t, thor, name, name)
		}
		path, _ := a.export(t, thor)
		b := newPlace(t, d, blog, withFiles(t))
		moved := b.bring(t, path)
		for _, name := range names {
			assert.Equal(t, name, b.read(t, moved, name))
		}
	})
}
