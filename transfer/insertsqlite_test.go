package transfer

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Rows on their way take the memory of so many, or of so many bytes.
func TestBatchesAreBounded(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		value   any
		rows    int
		batches []int // the rows of each
	}{
		"small rows":       {"a", 130, []int{64, 64, 2}},
		"numbers":          {int64(1), 65, []int{64, 1}},
		"big blobs":        {make([]byte, 10<<20), 5, []int{1, 1, 1, 1, 1}},
		"big texts":        {string(make([]byte, 1<<20)), 2, []int{1, 1}},
		"middling texts":   {string(make([]byte, 400<<10)), 7, []int{3, 3, 1}},
		"just not too big": {make([]byte, maxBatchBytes/maxBatch-1), 65, []int{64, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBatches(2 * maxBatch)
			made := make(chan error, 1)
			go func() {
				defer close(b.full)
				for range c.rows {
					if err := b.put([]any{c.value, nil}); err != nil {
						made <- err
						return
					}
				}
				made <- b.flush()
			}()
			var batches []int
			for args := range b.full {
				batches = append(batches, len(args)/2)
				b.empty <- args[:0]
			}
			require.NoError(t, <-made)
			assert.Equal(t, c.batches, batches)
		})
	}
}
