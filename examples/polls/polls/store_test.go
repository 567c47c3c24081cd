package polls_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/examples/polls/polls"
)

func TestOneVoteHoweverManyAtOnce(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a *app) {
		u := a.user("freya")
		p := a.poll(u, "Tea or mead?", "Tea", "Mead")
		var counted, refused atomic.Int32
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				switch err := a.store.Vote(context.Background(), p.ID, p.Choices[i%2].ID, u.ID); {
				case err == nil:
					counted.Add(1)
				case assert.ErrorIs(t, err, polls.ErrAlreadyVoted):
					refused.Add(1)
				}
			})
		}
		wg.Wait()
		assert.EqualValues(t, 1, counted.Load())
		assert.EqualValues(t, 15, refused.Load())
		p, err := a.store.Poll(t.Context(), p.ID)
		require.NoError(t, err)
		assert.EqualValues(t, 1, p.Votes)
	})
}

func TestVoteNeedsAChoiceOfThePoll(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a *app) {
		u := a.user("freya")
		one, two := a.poll(u, "One?", "a", "b"), a.poll(u, "Two?", "c", "d")
		require.ErrorIs(t, a.store.Vote(t.Context(), one.ID, two.Choices[0].ID, u.ID), polls.ErrNotFound)
		require.ErrorIs(t, a.store.Vote(t.Context(), 999, two.Choices[0].ID, u.ID), polls.ErrNotFound)
		// The keys alone keep a vote from naming another poll's choice.
		_, err := a.db.ExecContext(t.Context(), `INSERT INTO votes (poll_id, choice_id, user_id, created_at) VALUES ($1, $2, $3, 0)`,
			one.ID, two.Choices[0].ID, u.ID)
		require.Error(t, err)
	})
}

func TestVotesAndDeletionsAtOnceEndInACleanAnswer(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a *app) {
		u := a.user("freya")
		for range 10 {
			p := a.poll(u, "Now?", "yes", "no")
			var wg sync.WaitGroup
			wg.Go(func() {
				err := a.store.Vote(context.Background(), p.ID, p.Choices[0].ID, u.ID)
				assert.True(t, err == nil || errors.Is(err, polls.ErrNotFound), "%v", err)
			})
			wg.Go(func() { assert.NoError(t, a.store.DeletePoll(context.Background(), p.ID)) })
			wg.Wait()
			_, err := a.store.Poll(t.Context(), p.ID)
			require.ErrorIs(t, err, polls.ErrNotFound)
		}
		var left int
		require.NoError(t, a.db.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM votes`).Scan(&left))
		assert.Zero(t, left)
	})
}

func TestChoicesAreBounded(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a *app) {
		p := a.poll(a.user("freya"), "Many?")
		var wg sync.WaitGroup
		var added atomic.Int32
		for range polls.MaxChoices + 5 {
			wg.Go(func() {
				if _, err := a.store.AddChoice(context.Background(), p.ID, "one more"); err == nil {
					added.Add(1)
				} else {
					assert.ErrorIs(t, err, polls.ErrTooManyChoices)
				}
			})
		}
		wg.Wait()
		assert.EqualValues(t, polls.MaxChoices, added.Load())
		_, err := a.store.AddChoice(t.Context(), 999, "x")
		require.ErrorIs(t, err, polls.ErrNotFound)
	})
}

func TestEditPollIsAllOrNothing(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a *app) {
		p := a.poll(a.user("freya"), "Old?", "one", "two")
		other := a.poll(a.user("loki"), "Other?", "theirs", "too")
		err := a.store.EditPoll(t.Context(), p.ID, polls.PollEdit{
			Question: "New?", Texts: map[int64]string{p.Choices[0].ID: "changed", other.Choices[0].ID: "hijacked"},
		})
		require.ErrorIs(t, err, polls.ErrNotFound, "another poll's choice is not this one's")
		got, err := a.store.Poll(t.Context(), p.ID)
		require.NoError(t, err)
		assert.Equal(t, "Old?", got.Question)
		assert.Equal(t, "one", got.Choices[0].Text)

		require.NoError(t, a.store.EditPoll(t.Context(), p.ID, polls.PollEdit{
			Question: " New? ", Texts: map[int64]string{p.Choices[0].ID: "uno"}, Delete: []int64{p.Choices[1].ID}, Add: []string{"tres"},
		}))
		got, err = a.store.Poll(t.Context(), p.ID)
		require.NoError(t, err)
		assert.Equal(t, "New?", got.Question)
		require.Len(t, got.Choices, 2)
		assert.Equal(t, []string{"uno", "tres"}, []string{got.Choices[0].Text, got.Choices[1].Text})
	})
}

func TestIDsAreNotReused(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a *app) {
		u := a.user("freya")
		p := a.poll(u, "Gone?")
		require.NoError(t, a.store.DeletePoll(t.Context(), p.ID))
		assert.Greater(t, a.poll(u, "Next?").ID, p.ID)
	})
}

func TestUsernamesAreTakenOnce(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a *app) {
		var wg sync.WaitGroup
		var made atomic.Int32
		for range 8 {
			wg.Go(func() {
				_, err := a.store.CreateUser(context.Background(), polls.NewUser{Username: "odin", Password: password})
				if err == nil {
					made.Add(1)
				} else {
					assert.ErrorIs(t, err, polls.ErrUsernameTaken)
				}
			})
		}
		wg.Wait()
		assert.EqualValues(t, 1, made.Load())
	})
}

func TestPasswords(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a *app) {
		u := a.user("freya")
		var stored string
		require.NoError(t, a.db.QueryRowContext(t.Context(), `SELECT password_hash FROM users WHERE id = $1`, u.ID).Scan(&stored))
		assert.True(t, strings.HasPrefix(stored, "$argon2id$v=19$m=8,t=1,p=1$"), stored)

		got, err := a.store.Authenticate(t.Context(), "freya", password)
		require.NoError(t, err)
		assert.Equal(t, u, got)
		for _, try := range [][2]string{{"freya", "wrong-horse"}, {"freya", ""}, {"nobody", password}, {"", password}, {"Freya", password}, {"freya", strings.Repeat("x", 1000)}} {
			_, err := a.store.Authenticate(t.Context(), try[0], try[1])
			require.ErrorIs(t, err, polls.ErrCredentials, "%q", try)
		}

		// A hash made at another cost stays valid.
		costly := polls.NewStore(a.db, polls.WithPasswordCost(polls.PasswordCost{MemoryKiB: 64, Passes: 2, Lanes: 2}))
		_, err = costly.Authenticate(t.Context(), "freya", password)
		require.NoError(t, err)

		// A damaged hash lets nobody in, and its parameters are not believed.
		for _, bad := range []string{"", "!", "x", "$argon2id$v=19$m=4294967295,t=1,p=1$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA", "$argon2id$v=19$m=8,t=1,p=0$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA", "$argon2i$v=19$m=8,t=1,p=1$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA"} {
			_, err := a.db.ExecContext(t.Context(), `UPDATE users SET password_hash = $1 WHERE id = $2`, bad, u.ID)
			require.NoError(t, err)
			_, err = a.store.Authenticate(t.Context(), "freya", password)
			require.ErrorIs(t, err, polls.ErrCredentials, bad)
		}
	})
}

func TestHashingWaitsInLine(t *testing.T) {
	t.Parallel()
	a := newApp(t, openSQLite(t), polls.Config{})
	slow := polls.NewStore(a.db, polls.WithHashLimit(1), polls.WithPasswordCost(cheap))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := slow.CreateUser(ctx, polls.NewUser{Username: "late", Password: password})
	require.Error(t, err, "who has gone is not waited for")
	_, err = slow.CreateUser(t.Context(), polls.NewUser{Username: "ok", Password: password})
	require.NoError(t, err)
}

func TestSignIns(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a *app) {
		u := a.user("freya")
		for _, kind := range []polls.SignIn{polls.Session, polls.Token} {
			secret, expires, err := a.store.CreateSignIn(t.Context(), kind, u.ID)
			require.NoError(t, err)
			got, err := a.store.SignedIn(t.Context(), kind, secret)
			require.NoError(t, err)
			assert.Equal(t, u, got)

			// The database does not hold the secret.
			for _, table := range []string{"sessions", "api_tokens"} {
				var n int
				require.NoError(t, a.db.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM `+table+` WHERE token_hash = $1`, secret).Scan(&n))
				assert.Zero(t, n)
			}

			a.clock.Advance(expires.Sub(a.clock.Now()))
			_, err = a.store.SignedIn(t.Context(), kind, secret)
			require.ErrorIs(t, err, polls.ErrNotFound, "it has expired")

			secret, _, err = a.store.CreateSignIn(t.Context(), kind, u.ID)
			require.NoError(t, err)
			require.NoError(t, a.store.EndSignIn(t.Context(), kind, secret))
			_, err = a.store.SignedIn(t.Context(), kind, secret)
			require.ErrorIs(t, err, polls.ErrNotFound)
			require.NoError(t, a.store.EndSignIn(t.Context(), kind, secret))

			// A user's oldest ones end; what is kept stays bounded.
			var all []string
			for range 25 {
				secret, _, err := a.store.CreateSignIn(t.Context(), kind, u.ID)
				require.NoError(t, err)
				all = append(all, secret)
				a.clock.Advance(time.Second)
			}
			_, err = a.store.SignedIn(t.Context(), kind, all[4])
			require.ErrorIs(t, err, polls.ErrNotFound)
			_, err = a.store.SignedIn(t.Context(), kind, all[5])
			require.NoError(t, err)
		}
	})
}

func TestSetPasswordSignsOutEverywhere(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a *app) {
		u, other := a.user("freya"), a.user("loki")
		session, _, err := a.store.CreateSignIn(t.Context(), polls.Session, u.ID)
		require.NoError(t, err)
		token, _, err := a.store.CreateSignIn(t.Context(), polls.Token, u.ID)
		require.NoError(t, err)
		device, _, err := a.store.CreateSignIn(t.Context(), polls.Device, u.ID)
		require.NoError(t, err)
		theirs, _, err := a.store.CreateSignIn(t.Context(), polls.Token, other.ID)
		require.NoError(t, err)

		var invalid polls.Invalid
		require.ErrorAs(t, a.store.SetPassword(t.Context(), u.ID, "short"), &invalid)
		require.ErrorIs(t, a.store.SetPassword(t.Context(), 999, "another-horse"), polls.ErrNotFound)
		require.NoError(t, a.store.SetPassword(t.Context(), u.ID, "another-horse"))

		_, err = a.store.SignedIn(t.Context(), polls.Session, session)
		require.ErrorIs(t, err, polls.ErrNotFound)
		_, err = a.store.SignedIn(t.Context(), polls.Token, token)
		require.ErrorIs(t, err, polls.ErrNotFound)
		_, err = a.store.SignedIn(t.Context(), polls.Device, device)
		require.ErrorIs(t, err, polls.ErrNotFound)
		_, err = a.store.SignedIn(t.Context(), polls.Token, theirs)
		require.NoError(t, err)
		_, err = a.store.Authenticate(t.Context(), "freya", "another-horse")
		require.NoError(t, err)
	})
}

func TestOneSuperuserIsLeft(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a *app) {
		one, two := a.superuser("one"), a.superuser("two")
		var wg sync.WaitGroup
		var refused atomic.Int32
		for _, u := range []polls.User{one, two} {
			wg.Go(func() {
				if err := a.store.SetRoles(context.Background(), u.ID, true, false); err != nil {
					assert.ErrorIs(t, err, polls.ErrLastSuperuser)
					refused.Add(1)
				}
			})
		}
		wg.Wait()
		assert.EqualValues(t, 1, refused.Load(), "both demote at once: one is refused")
		require.ErrorIs(t, a.store.SetRoles(t.Context(), 999, true, true), polls.ErrNotFound)
	})
}

func TestPlansAreShared(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a *app) {
		plans, err := a.store.Plans(t.Context())
		require.NoError(t, err)
		require.Len(t, plans, 3)
		assert.Equal(t, []string{"€0", "€9", "€49"}, []string{plans[0].Price(), plans[1].Price(), plans[2].Price()})
	})
}

// However many are opened at once, there are as many polls as the plan allows.
func TestPlanLimit(t *testing.T) {
	t.Parallel()
	const most = 10 // of the plan free
	free := polls.WithPlan(func(context.Context) (string, error) { return "free", nil })
	onBothWith(t, polls.Config{}, func(t *testing.T, a *app) {
		u := a.user("freya")
		var made, refused atomic.Int32
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for i := range 5 {
					switch _, err := a.store.CreatePoll(context.Background(), u, fmt.Sprint("Number ", i)); {
					case err == nil:
						made.Add(1)
					case assert.ErrorIs(t, err, polls.ErrPlanLimit):
						refused.Add(1)
					}
				}
			})
		}
		wg.Wait()
		assert.EqualValues(t, most, made.Load())
		assert.EqualValues(t, 20-most, refused.Load())

		a.api("POST", "/polls/", a.token("freya"), fields{"question": "One more?"}).fails(http.StatusConflict, "question")
		b := a.browser()
		b.login("freya")
		form := url.Values{"question": {"One more?"}, "choices.1": {"Yes"}, "choices.2": {"No"}}
		page := b.submit("/polls/new/", form)
		assert.Equal(t, http.StatusConflict, page.Status)
		assert.Contains(t, text(page.one("p", "id", "d-question")), "as many polls as the plan allows")

		list, err := a.store.Polls(t.Context(), polls.FirstPage, 1)
		require.NoError(t, err)
		require.NoError(t, a.store.DeletePoll(t.Context(), list[0].ID))
		assert.Equal(t, http.StatusOK, b.submit("/polls/new/", form).Status)

		unknown := polls.NewStore(a.db, polls.WithPlan(func(context.Context) (string, error) { return "gold", nil }))
		_, err = unknown.CreatePoll(t.Context(), u, "?")
		require.ErrorContains(t, err, `no plan "gold"`)
	}, free)
}

func TestSeedDemoCanBeRepeated(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a *app) {
		hash, err := a.store.HashPassword(t.Context(), "admin", password)
		require.NoError(t, err)
		demo := polls.Demo{Superuser: "admin", PasswordHash: hash, Polls: polls.DemoPolls("thor")}
		for range 2 {
			require.NoError(t, polls.SeedDemo(t.Context(), a.store, demo))
		}
		all, err := a.store.Polls(t.Context(), polls.FirstPage, 100)
		require.NoError(t, err)
		require.Len(t, all, len(demo.Polls))
		assert.EqualValues(t, 15, all[2].Votes)
		u, err := a.store.Authenticate(t.Context(), "admin", password)
		require.NoError(t, err)
		assert.True(t, u.Staff && u.Superuser)

		// The password of who is there already stays, and made-up voters cannot sign in.
		require.NoError(t, polls.SeedDemo(t.Context(), a.store, polls.Demo{Superuser: "admin", PasswordHash: "another"}))
		_, err = a.store.Authenticate(t.Context(), "admin", password)
		require.NoError(t, err)
		_, err = a.store.Authenticate(t.Context(), "voter01", "!")
		require.ErrorIs(t, err, polls.ErrCredentials)

		err = polls.SeedDemo(t.Context(), a.store, polls.Demo{Superuser: "x y"})
		var invalid polls.Invalid
		require.ErrorAs(t, err, &invalid)
		require.Error(t, polls.SeedDemo(t.Context(), a.store, polls.Demo{Superuser: "admin", Polls: []polls.DemoPoll{{Question: "?", Votes: []int{1}}}}))
	})
}

func TestDemoPollsAreValid(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"thor", "potter", "other"} {
		for _, d := range polls.DemoPolls(name) {
			assert.Len(t, d.Votes, len(d.Choices), d.Question)
			assert.GreaterOrEqual(t, len(d.Choices), 2)
			assert.Empty(t, polls.CheckText(d.Question, "a question", polls.MaxQuestion))
		}
	}
}

func TestListIsOneQueryAndPaged(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a *app) {
		u := a.user("freya")
		for range 5 {
			a.poll(u, "Again?", "a", "b")
		}
		first, err := a.store.Polls(t.Context(), polls.FirstPage, 3)
		require.NoError(t, err)
		require.Len(t, first, 3)
		second, err := a.store.Polls(t.Context(), first[2].ID, 3)
		require.NoError(t, err)
		require.Len(t, second, 2)
		assert.Less(t, second[0].ID, first[2].ID)
	})
}
