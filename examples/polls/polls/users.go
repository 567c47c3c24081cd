package polls

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// A User is somebody who signed up. Staff may use the admin; superusers may manage users there as well.
type User struct {
	ID        int64
	Username  string
	Email     string // may be empty
	Staff     bool
	Superuser bool
	CreatedAt time.Time
}

// NewUser is what a user is made of.
type NewUser struct {
	Username  string
	Email     string // optional
	Password  string
	Staff     bool
	Superuser bool
}

const (
	userColumns = `u.id, u.username, u.email, u.is_staff, u.is_superuser, u.created_at`

	insertUser = `
		INSERT INTO users (username, email, password_hash, is_staff, is_superuser, created_at)
		VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (username) DO NOTHING RETURNING id`
)

func scanUser(row interface{ Scan(...any) error }, more ...any) (u User, err error) {
	var created int64
	err = row.Scan(append([]any{&u.ID, &u.Username, &u.Email, &u.Staff, &u.Superuser, &created}, more...)...)
	u.CreatedAt = fromMillis(created)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNotFound
	}
	return u, err
}

// CreateUser adds a user. It returns an [Invalid], or [ErrUsernameTaken].
func (s *Store) CreateUser(ctx context.Context, n NewUser) (User, error) {
	err := check(
		FieldError{"username", CheckUsername(n.Username)},
		FieldError{"email", checkEmail(n.Email)},
		FieldError{"password", CheckPassword(n.Username, n.Password)},
	)
	if err != nil {
		return User{}, err
	}
	hash, err := s.hasher.hash(ctx, n.Password)
	if err != nil {
		return User{}, fmt.Errorf("polls: create user: %w", err)
	}
	now := millis(s.now())
	id, err := insert(ctx, s.db, insertUser, n.Username, n.Email, hash, n.Staff || n.Superuser, n.Superuser, now)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return User{}, ErrUsernameTaken
	case err != nil:
		return User{}, fmt.Errorf("polls: create user: %w", err)
	}
	return User{
		ID: id, Username: n.Username, Email: n.Email, Staff: n.Staff || n.Superuser, Superuser: n.Superuser,
		CreatedAt: fromMillis(now),
	}, nil
}

// HashPassword returns what is kept of a password of the user of that name: for whoever has to hand it on before the user
// can be added. It returns an [Invalid], or [ErrBusy].
func (s *Store) HashPassword(ctx context.Context, username, password string) (string, error) {
	err := check(FieldError{"username", CheckUsername(username)}, FieldError{"password", CheckPassword(username, password)})
	if err != nil {
		return "", err
	}
	hash, err := s.hasher.hash(ctx, password)
	if err != nil {
		return "", fmt.Errorf("polls: hash password: %w", err)
	}
	return hash, nil
}

// CreateSuperuser adds a user who may do everything in the admin. It returns an [Invalid], or [ErrUsernameTaken].
func CreateSuperuser(ctx context.Context, s *Store, username, password string) (User, error) {
	return s.CreateUser(ctx, NewUser{Username: username, Password: password, Staff: true, Superuser: true})
}

// Authenticate returns the user of that name and password, or [ErrCredentials]; [ErrBusy] when too many do this at once.
func (s *Store) Authenticate(ctx context.Context, username, password string) (User, error) {
	if CheckUsername(username) != "" || len(password) > MaxPassword {
		return User{}, ErrCredentials // Nobody can have signed up with these.
	}
	hash := unusablePassword
	u, err := scanUser(s.db.QueryRowContext(ctx, `
		SELECT `+userColumns+`, u.password_hash FROM users u WHERE u.username = $1`, username), &hash)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return User{}, fmt.Errorf("polls: sign in: %w", err)
	}
	ok, err := s.hasher.matches(ctx, hash, password)
	switch {
	case err != nil:
		return User{}, fmt.Errorf("polls: sign in: %w", err)
	case !ok:
		return User{}, ErrCredentials
	}
	return u, nil
}

// User returns the user with that ID, or [ErrNotFound].
func (s *Store) User(ctx context.Context, id int64) (User, error) {
	u, err := scanUser(s.db.QueryRowContext(ctx, `SELECT `+userColumns+` FROM users u WHERE u.id = $1`, id))
	if err != nil {
		return User{}, fmt.Errorf("polls: user %d: %w", id, err)
	}
	return u, nil
}

// Users lists up to limit users in the order of their names, beginning behind the name after ("" for the first).
func (s *Store) Users(ctx context.Context, after string, limit int) ([]User, error) {
	rows, err := s.db.QueryContext(ctx, `
		SELECT `+userColumns+` FROM users u WHERE u.username > $1 ORDER BY u.username LIMIT $2`, after, limit)
	if err != nil {
		return nil, fmt.Errorf("polls: list users: %w", err)
	}
	users, err := collect(rows, func(rows *sql.Rows) (User, error) { return scanUser(rows) })
	if err != nil {
		return nil, fmt.Errorf("polls: list users: %w", err)
	}
	return users, nil
}

// SetRoles makes a user staff, a superuser (who is staff, too), or neither. It returns [ErrNotFound], or [ErrLastSuperuser]
// when nobody would be left who can manage users.
func (s *Store) SetRoles(ctx context.Context, id int64, staff, superuser bool) error {
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		// Taking the rows of all superusers puts two who demote each other at the same moment in line, on every database.
		if _, err := tx.ExecContext(ctx, `UPDATE users SET is_superuser = TRUE WHERE is_superuser`); err != nil {
			return err
		}
		if err := changed(tx.ExecContext(ctx, `
			UPDATE users SET is_staff = $1, is_superuser = $2 WHERE id = $3`, staff || superuser, superuser, id)); err != nil {
			return err
		}
		var left int
		if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM users WHERE is_superuser`).Scan(&left); err != nil {
			return err
		}
		if left == 0 {
			return ErrLastSuperuser
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("polls: set roles of user %d: %w", id, err)
	}
	return nil
}

// SetPassword gives a user a new password and signs them out everywhere. It returns an [Invalid], or [ErrNotFound].
func (s *Store) SetPassword(ctx context.Context, id int64, password string) error {
	u, err := s.User(ctx, id)
	if err != nil {
		return err
	}
	if err := check(FieldError{"password", CheckPassword(u.Username, password)}); err != nil {
		return err
	}
	hash, err := s.hasher.hash(ctx, password)
	if err != nil {
		return fmt.Errorf("polls: set password of user %d: %w", id, err)
	}
	err = s.inTx(ctx, func(tx *sql.Tx) error {
		if err := changed(tx.ExecContext(ctx, `UPDATE users SET password_hash = $1 WHERE id = $2`, hash, id)); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM sessions WHERE user_id = $1`, id); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM devices WHERE user_id = $1`, id); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM api_tokens WHERE user_id = $1`, id)
		return err
	})
	if err != nil {
		return fmt.Errorf("polls: set password of user %d: %w", id, err)
	}
	return nil
}

// A SignIn is the kind of secret that stands for a user: a browser's session, a token of the API, or a browser that is
// known.
type SignIn struct {
	table string
	ttl   time.Duration
	keep  int // so many per user, the newest
}

var (
	// Session is a browser that has logged in, for two weeks.
	Session = SignIn{table: "sessions", ttl: 14 * 24 * time.Hour, keep: 20}
	// Token is a client of the API, for 90 days.
	Token = SignIn{table: "api_tokens", ttl: 90 * 24 * time.Hour, keep: 20}
	// Device is a browser in which the user has logged in before, for a year. It opens nothing: it tells the user's own
	// browser from a stranger's, so that no stranger can lock the user out.
	Device = SignIn{table: "devices", ttl: 365 * 24 * time.Hour, keep: 20}
)

// CreateSignIn returns a new secret for a user and when it expires. Only its hash is stored. A user's oldest ones beyond
// 20 of a kind end, and expired ones of anybody are swept away.
func (s *Store) CreateSignIn(ctx context.Context, kind SignIn, userID int64) (secret string, expires time.Time, err error) {
	now := s.now()
	expires = now.Add(kind.ttl)
	secret, hash := newSecret()
	err = s.inTx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `
			INSERT INTO `+kind.table+` (token_hash, user_id, created_at, expires_at) VALUES ($1, $2, $3, $4)`,
			hash, userID, millis(now), millis(expires)); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `
			DELETE FROM `+kind.table+` WHERE expires_at <= $1 OR (user_id = $2 AND token_hash NOT IN (
				SELECT token_hash FROM `+kind.table+` WHERE user_id = $2
				ORDER BY created_at DESC, token_hash LIMIT $3))`, millis(now), userID, kind.keep)
		return err
	})
	if err != nil {
		return "", time.Time{}, fmt.Errorf("polls: sign in user %d: %w", userID, err)
	}
	return secret, expires, nil
}

// SignedIn returns the user whom a secret stands for, or [ErrNotFound] when it is unknown or has expired.
func (s *Store) SignedIn(ctx context.Context, kind SignIn, secret string) (User, error) {
	u, err := scanUser(s.db.QueryRowContext(ctx, `
		SELECT `+userColumns+` FROM `+kind.table+` t JOIN users u ON u.id = t.user_id
		WHERE t.token_hash = $1 AND t.expires_at > $2`, hashSecret(secret), millis(s.now())))
	if err != nil {
		return User{}, fmt.Errorf("polls: look up sign-in: %w", err)
	}
	return u, nil
}

// EndSignIn makes a secret worthless. One that is unknown already is no error.
func (s *Store) EndSignIn(ctx context.Context, kind SignIn, secret string) error {
	if _, err := s.db.ExecContext(ctx, `DELETE FROM `+kind.table+` WHERE token_hash = $1`, hashSecret(secret)); err != nil {
		return fmt.Errorf("polls: sign out: %w", err)
	}
	return nil
}
