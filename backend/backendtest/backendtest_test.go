package backendtest

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The model without faults passes: what fails with one fails because of it.
func TestModelPasses(t *testing.T) {
	t.Parallel()
	Run(t, modelConfig())
}

// So does the one with two places, which is package placed over two models.
func TestModelOfPlacesPasses(t *testing.T) {
	t.Parallel()
	Run(t, placesConfig())
}

// faultsFor says for each case which faults it must notice.
var faultsFor = map[string][]fault{
	"S01/every call without a tenant is refused":                                          {defaultTenant},
	"S01/no store is touched":                                                             {defaultTenant},
	"S01/a held connection does not lend its tenant":                                      {heldLends},
	"S01/ping needs no tenant":                                                            {pingNeedsTenant},
	"S02/each write lands where its context says":                                         {stickyRoute, misroutes},
	"S02/in parallel":                                                                     {stickyRoute, misroutes},
	"S03/many goroutines, many tenants, few connections":                                  {misroutes, stickyRoute, commitLoses, rollbackKeeps},
	"S04/a transaction refuses another tenant":                                            {mismatchIgnored, mismatchFollowed},
	"S04/a transaction stays usable for its own":                                          {mismatchAborts},
	"S04/transactions of two tenants at once":                                             {rollbackKeeps, commitLoses, readsOutside},
	"S05/a held connection is one session":                                                {sessionPerStatement},
	"S05/a held connection refuses a second tenant":                                       {mismatchIgnored, mismatchFollowed},
	"S05/a released connection keeps nothing":                                             {reused},
	"S06/after a savepoint rolled back":                                                   {rollbackStrays},
	"S06/after a savepoint that a failure was rolled back to":                             {rollbackStrays},
	"S06/after a failed statement":                                                        {errorStrays},
	"S06/after a transaction rolled back":                                                 {rollbackKeeps},
	"S06/a transaction whose context ended":                                               {cancelLeaks, rollbackKeeps},
	"S07/by a statement":                                                                  {reused},
	"S07/by a query":                                                                      {reused},
	"S07/by a prepared statement":                                                         {reused},
	"S07/by a committed transaction":                                                      {reused},
	"S07/by a held connection":                                                            {reused},
	"S07/on a pinned handle":                                                              {reused},
	"S07/transaction control in the text":                                                 {endStrays},
	"S08/a store that never was":                                                          {missingIsShared},
	"S08/a store that was dropped":                                                        {missingIsShared, dropKeeps, goneServed},
	"S08/a store of another owner":                                                        {ownerUnchecked},
	"S08/what has no stamp":                                                               {anyIsStore},
	"S08/a store dropped by another process":                                              {staleCache},
	"S09/the tenant's own table wins":                                                     {sharedWins},
	"S09/shared tables are readable from a tenant":                                        {sharedAbsent},
	"S09/shared tables are not writable from a tenant":                                    {sharedWritable},
	"S09/the shared handle":                                                               {sharedFollows},
	"S10/prepare once, execute for two tenants":                                           {preparedSticks},
	"S10/a prepared statement inside a transaction":                                       {mismatchIgnored, preparedSticks},
	"S11/rows stay their tenant's":                                                        {oneCursor},
	"S11/rows left open and cancelled":                                                    {cancelLeaks},
	"S11/rows of several stores closed in any order":                                      {oneCursor},
	"S12/valid names round-trip":                                                          {namesFolded, unstamped},
	"S12/valid names can be dropped and renamed":                                          {namesFolded, renameCopies},
	"S12/what is beside the stores is not listed":                                         {listsAll},
	"S12/the zero store":                                                                  {zeroIsShared},
	"S13/SELECT * while one tenant has a new column":                                      {planCached},
	"S13/the first statement of a transaction":                                            {planCached},
	"S14/statements that refuse to run in a transaction":                                  {vacuumRefused},
	"S17/another tenant's store cannot be named":                                          {attachesAll},
	"S24/created by eight at once":                                                        {createAgain},
	"S25/rename keeps data and owner":                                                     {renameCopies},
	"S25/what was open when it was renamed":                                               {followsName},
	"S25/what was open when it was renamed, with a transaction that has done nothing yet": {followsName},
	"S26/calls under way when the store is dropped":                                       {goneServed, dropKeeps},
	"S26/calls under way when the store is dropped, with a transaction that has done nothing yet": {goneServed, dropKeeps},
	"S27/a new store under an old name":                                               {followsName, ownerUnchecked},
	"S27/a new store under an old name, with a transaction that has done nothing yet": {followsName, ownerUnchecked},
	"S27/seen from another process":                                                   {staleCache, ownerUnchecked},
	"S27/again and again":                                                             {dropKeeps, ownerUnchecked},
	"S71/at the store, while it is renamed":                                           {missingIsShared},
	"S71/at the store, while it is dropped":                                           {missingIsShared, dropKeeps},
	"S71/at a table, while the store is renamed":                                      {missingIsShared},
	"S71/at a table, while the store is dropped":                                      {missingIsShared, dropKeeps},
	"S71/for a connection, while the store is renamed":                                {missingIsShared},
	"S71/for a connection, while the store is dropped":                                {missingIsShared, dropKeeps},
	"rights/a tenant does as it likes in its own store":                               {ownersOnly},
	"S80/the tenant set changes nothing shared":                                       {sharedWritable},
	"transaction/nesting is refused":                                                  {nestedBegin},
	"transaction/read only":                                                           {readOnlyIgnored},
	"S76/the same text over columns of other types":                                   {preparedSticks, stickyRoute},
	"transaction/the isolation level is honoured":                                     {isolationFixed},
	"transaction/waiting ends with the context":                                       {contextIgnored},
	"store/create makes an empty one":                                                 {unstamped, listsAll},
	"store/create refuses what exists":                                                {createAgain},
	"store/drop removes it":                                                           {dropKeeps, ownerUnchecked},
	"pin/goes to its store without a context":                                         {pinFollows},
	"pin/refuses another tenant's context":                                            {pinIgnores, pinFollows},
	"pin/costs nothing while idle":                                                    {idleHolds},
	"owner/changes the store's tables":                                                {ownerFollows},
	"owner/the tenant fills what the owner made":                                      {ownersOnly},
	"close/a caller who closes what is the backend's":                                 {closeSticks},
	"nowhere/has functions and catalogs":                                              {nowhereAnswersNot},
	"nowhere/has no table of anyone's":                                                {nowhereIsShared},
	"close/calls after it fail":                                                       {closeIgnored},
	"close/waits for no one":                                                          {closeWaits, closeIgnored},
	"script/each in its store":                                                        {scriptsFirst},
	"script/a failing one does not stop the rest":                                     {scriptsStop},
	"script/one that makes its store":                                                 {scriptsKeep, createAgain},
	"script/the wait for a lock is bounded":                                           {scriptsWait},
	"script/many at once":                                                             {scriptsSingle},
	"script/what it does to its connection":                                           {reused},
	"template/built once per key":                                                     {buildsAlways},
	"template/an error of build":                                                      {buildsHalf},
	"lock/excludes":                                                                   {locksNothing},
	"lock/one key at a time":                                                          {locksAll},
	"lock/is tried for":                                                               {triesVaguely, locksNothing},
	"lock/fences what is done under it":                                               {fencesNothing},
	"lock/fences what is done in stores":                                              {fencesNothing, workUnfenced},
	"sweep/removes what is left over and nothing else":                                {sweepsNothing},
	"backup/writes a new file or nothing":                                             {backsUpAny, ownerUnchecked},
	"readonly/what would change the store is refused":                                 {routeWrites},
	"readonly/it is the route's and not the store's":                                  {routeWrites, readOnlyStays},
	"readonly/a held connection goes by each statement's route":                       {routeWrites, routeStays},
	"readonly/a unit of work keeps what it began with":                                {routeWrites, routeChanges},
	"adopt/makes a store of what is there":                                            {adoptsEmpty, adoptsAll},
	"adopt/by eight at once":                                                          {adoptsAll},
	"adopt/another owner":                                                             {ownerUnchecked},
	"adopt/another owner, by eight at once":                                           {ownerUnchecked},
	"copy/in the transaction's store":                                                 {copyLoses, rollbackKeeps, commitLoses},
	"copy/a reader that fails":                                                        {copyTorn},
	"copy/in a transaction, of the tenant":                                            {mismatchFollowed, mismatchIgnored},
	"adopt/fenced":                                                                    {stampUnfenced},
	"sql/times":                                                                       {timesAsPrinted},
	"sql/values round-trip":                                                           {valuesAsText},
	"sql/results of a statement":                                                      {countsNothing},
	"sql/no rows":                                                                     {errorsAsText},
	"sql/columns":                                                                     {columnsUnnamed},
	"sql/arguments":                                                                   {argumentsPadded},
	"sql/a large result":                                                              {resultsCut},
	"sql/a large value":                                                               {valuesCut},
	"sql/a held connection":                                                           {noPrepare},
	"sql/readers in parallel":                                                         {oneSession},
	"sql/a statement inside a transaction that reads its own rows":                    {readsOutside, noPrepare},
	"replica/reads by the context's route":                                            {missingIsShared},
	"replica/changes nothing":                                                         {replicaWrites},
	"place/made where it is told":                                                     {placeIgnored, placeForgotten},
	"place/settled before it is made":                                                 {settlesNothing},
	"place/a name is one store's in all places":                                       {namesPerPlace},
	"place/renamed where it is":                                                       {renamesOneSide},
	"place/listed together":                                                           {listsHome, listsUnordered, viewListsAll},
	"place/scripts in each":                                                           {scriptsAtHome, scriptsMixedUp},
	"place/shared by those that are there":                                            {sharedIsHomes},
	"native/follows the routing rules":                                                {defaultTenant, mismatchIgnored, missingIsShared, ownerUnchecked},
	"native/beside the routed handle":                                                 {misroutes},
	"native/a store dropped and made anew":                                            {ownerUnchecked, dropKeeps},
	"native/what a statement does to its connection":                                  {reused},
}

// Every case has a fault that it notices, and every fault listed for it is noticed.
func TestEachCaseCanFail(t *testing.T) {
	if testing.Short() {
		t.Skip("it runs each case with each fault")
	}
	t.Parallel()
	listed := map[string]bool{}
	for _, c := range cases() {
		require.False(t, listed[c.path()], "two cases are called %s", c.path())
		listed[c.path()] = true
		require.NotEmpty(t, c.rule, "%s states no rule", c.path())
		require.NotEmpty(t, faultsFor[c.path()], "no fault is known that %s would notice", c.path())
		for _, f := range faultsFor[c.path()] {
			t.Run(c.path()+"/"+string(f), func(t *testing.T) {
				t.Parallel()
				cfg := modelConfig(f)
				if c.id == "place" {
					cfg = placesConfig(f)
				}
				r := watch(t, cfg, c)
				assert.True(t, r.failed, "the case passed although %s", f)
				assert.True(t, r.explained(c.rule), "the failure did not state its rule")
			})
		}
	}
	for path := range faultsFor {
		require.True(t, listed[path], "there is no case called %s", path)
	}
}

// watch runs a case and reports what became of it instead of failing t.
func watch(t *testing.T, cfg Config, c testCase) *recorder {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runCase(r, cfg, c, 3*time.Second)
	}()
	<-done
	r.cleanUp()
	return r
}

// recorder is a testing.TB that remembers a failure.
type recorder struct {
	testing.TB
	mu       sync.Mutex
	failed   bool
	log      []string
	cleanups []func()
}

func (r *recorder) Fail() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = true
}

func (r *recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

func (r *recorder) Logf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = append(r.log, fmt.Sprintf(format, args...))
}

func (r *recorder) FailNow() {
	r.Fail()
	runtime.Goexit()
}

func (r *recorder) Skip(args ...any) {
	r.Logf("%s", fmt.Sprint(args...))
	runtime.Goexit()
}

func (r *recorder) Skipf(format string, args ...any)  { r.Skip(fmt.Sprintf(format, args...)) }
func (r *recorder) Log(args ...any)                   { r.Logf("%s", fmt.Sprint(args...)) }
func (r *recorder) Error(args ...any)                 { r.Log(args...); r.Fail() }
func (r *recorder) Errorf(format string, args ...any) { r.Logf(format, args...); r.Fail() }
func (r *recorder) Fatal(args ...any)                 { r.Log(args...); r.FailNow() }
func (r *recorder) Fatalf(format string, args ...any) { r.Logf(format, args...); r.FailNow() }

func (r *recorder) Cleanup(fn func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanups = append(r.cleanups, fn)
}

func (r *recorder) cleanUp() {
	for len(r.cleanups) > 0 {
		last := len(r.cleanups) - 1
		fn := r.cleanups[last]
		r.cleanups = r.cleanups[:last]
		fn()
	}
}

func (r *recorder) explained(rule string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Contains(strings.Join(r.log, "\n"), rule)
}
