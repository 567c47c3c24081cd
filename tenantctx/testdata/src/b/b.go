package b

import (
	_ "github.com/glebarez/sqlite" // want `github.com/glebarez/sqlite has a driver named sqlite, as backend/sqlite has .*: the program panics at start; use gorm.io/driver/sqlite`
)
