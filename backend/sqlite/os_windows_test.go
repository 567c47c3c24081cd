package sqlite_test

import (
	"errors"
	"testing"
)

func inodeOf(*testing.T, string) string { return "" }

func limitDescriptors(int) error { return errors.New("there is no limit") }

func hinder(string, bool) error { return errors.ErrUnsupported }
