# pgpoll: HTTP long polling over PostgreSQL. `make help` lists what can be made.

VERSION := 0.2.0
SCHEMA  := $(or $(shell sed -n 's/^\\set schema_version //p' sql/version.sql),$(error sql/version.sql sets no schema_version))
PORT    ?= 8080
RUN     ?= .run
WORKERS ?= 64
MODE    ?= managed
PREFIX  ?= /usr/local
DESTDIR ?=
# SANITIZE=address,undefined builds with sanitizers, in a directory of its own.
SANITIZE ?=
SUITES  ?= lint unit sanitized threads fuzz sql fault e2e e2e-pool e2e-around e2e-web e2e-direct e2e-database e2e-watch
FUZZ_S  ?= 60

SANITIZERS := address,undefined
FUZZ_SANITIZE := fuzzer-no-link,$(SANITIZERS)
comma    := ,
build_of  = build$(if $(1),/$(subst $(comma),-,$(1)))
BUILD    := $(call build_of,$(SANITIZE))

CC     := $(if $(filter default,$(origin CC)),gcc,$(CC))
CFLAGS ?= -g $(if $(SANITIZE),-O1,-O2)

# Each step prints one short line, none with -s. V=1 prints the commands.
Q    := $(if $(V),,@)
note  = $(if $(V)$(findstring s,$(firstword -$(MAKEFLAGS))),,@echo '  $(1)' $@)

WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wformat=2 -Wconversion \
            -Wwrite-strings $(if $(filter true,$(CI)),-Werror)
ifdef SANITIZE
# -Wno-tsan: the thread sanitizer does not know fences. All data that fences order are atomic or marked (racy_read.h).
GUARDS  := -fsanitize=$(SANITIZE) -fno-sanitize-recover=all -fno-omit-frame-pointer $(if $(filter thread,$(SANITIZE)),-Wno-tsan)
LDGUARDS := $(GUARDS)
WORKER_LDFLAGS :=
else
GUARDS  := -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fPIE
LDGUARDS := -pie -Wl,-z,relro,-z,now
# A manager has thousands of workers, and each shared library costs every worker 40 KiB (kernel memory and dirty pages). Therefore workers
# are linked statically if the linker finds the archives. Our code replaces functions of libfcgi and libc (fcgi_io.h, oom.h); -z muldefs
# makes the linker take ours. It would also hide duplicate definitions in our own objects, which the link of pgpoll.fcgi reports.
WORKER_LDFLAGS ?= $(if $(MISSING_ARCHIVES),,-static-pie -Wl$(comma)-z$(comma)muldefs)
endif

# These run when they are first needed, and only once: on a new machine the packages are installed by then.
once       = $(eval $(1) := $(2))$($(1))
LIBRARIES  := 'json-c >= 0.15' 'libpq >= 14'
pkg_config = $(shell pkg-config $(1))$(if $(filter-out 0,$(.SHELLSTATUS)),$(error pkg-config does not find all of $(LIBRARIES): install libjson-c-dev and libpq-dev, or run `make packages`))
PKG_CFLAGS = $(call once,PKG_CFLAGS,$(call pkg_config,--cflags $(LIBRARIES)))
JSON_LIBS  = $(call once,JSON_LIBS,$(call pkg_config,--libs json-c))
PKG_LIBS   = $(call once,PKG_LIBS,$(call pkg_config,--libs $(LIBRARIES)))

# What the linker lacks for these options, found by linking an empty program: names such as -lfcgi, or the options themselves if it names none.
lacking = $(shell said=$$(echo 'int main(void) { return 0; }' | LC_ALL=C $(CC) -o /dev/null -x c - $(LDFLAGS) $(1) 2>&1) || { \
    names=$$(echo "$$said" | sed -nE 's/.*(cannot find|unable to find library) ([^: ]+).*/\2/p' | sort -u); echo $${names:-$(1)}; })
FCGI_LIBS = $(call once,FCGI_LIBS,$(if $(call lacking,-lfcgi),$(error the linker does not find libfcgi: install libfcgi-dev, or run `make packages`),-lfcgi))
MISSING_ARCHIVES = $(call once,MISSING_ARCHIVES,$(call lacking,-static-pie -lfcgi $(JSON_LIBS)))

COMPILE = $(CC) -std=c11 -D_GNU_SOURCE -DPGPOLL_VERSION='"$(VERSION)"' -DPGPOLL_SCHEMA_VERSION=$(SCHEMA) $(CPPFLAGS) -Isrc -Ifcgi $(PKG_CFLAGS) $(WARNINGS) -fno-common $(GUARDS) $(CFLAGS)
LINK    = $(CC) $(CFLAGS) $(LDGUARDS) $(LDFLAGS)

objects  = $(patsubst %.c,$(BUILD)/%.o,$(1))
MAINS   := fcgi/pgpoll.c fcgi/pgpoll_worker.c fcgi/pgpoll_reader.c fcgi/pgpoll_stats.c
LIBRARY := $(BUILD)/libpgpoll.a
SRC     := $(call objects,$(wildcard src/*/*.c))
FCGI    := $(call objects,$(filter-out $(MAINS),$(wildcard fcgi/*.c)))
UNIT    := $(call objects,$(wildcard tests/unit/*.c))
FUZZ    := $(call objects,$(wildcard tests/fuzz/*.c))
BENCH_OBJECTS := $(call objects,$(wildcard tests/bench/*.c))
OBJECTS := $(SRC) $(FCGI) $(UNIT) $(FUZZ) $(BENCH_OBJECTS) $(call objects,$(MAINS))
PROGRAMS := $(addprefix $(BUILD)/,pgpoll.fcgi pgpoll-worker pgpoll-reader pgpoll-stats.fcgi)
fuzzers  = $(patsubst tests/fuzz/%.c,$(1)/tests/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))

MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:
.PHONY: all unit-runner fuzzers bench-programs packages packages-run packages-test packages-bench run start stop reload psql test soak site fuzz bench \
        lint lint-format lint-cppcheck lint-shell lint-layers lint-tidy install uninstall dist deb clients test-deb test-debian test-postgres test-container build-clang build-arm64 objects clean help

all: $(PROGRAMS) ## builds the programs (SANITIZE=address,undefined: a watched build beside the ordinary one)

$(BUILD)/pgpoll.fcgi: $(BUILD)/fcgi/pgpoll.o $(FCGI) $(LIBRARY)
$(BUILD)/pgpoll-worker: $(BUILD)/fcgi/pgpoll_worker.o $(FCGI) $(LIBRARY)
$(BUILD)/pgpoll-reader: $(BUILD)/fcgi/pgpoll_reader.o $(BUILD)/fcgi/startup.o $(LIBRARY)
$(BUILD)/pgpoll-stats.fcgi: $(BUILD)/fcgi/pgpoll_stats.o $(filter-out %/worker.o,$(FCGI)) $(LIBRARY)
$(BUILD)/pgpoll-worker: LIBS = $(WORKER_LDFLAGS) $(FCGI_LIBS) $(JSON_LIBS)
$(BUILD)/pgpoll-reader: LIBS = $(PKG_LIBS)
LIBS = $(FCGI_LIBS) $(PKG_LIBS)
$(PROGRAMS):
	$(call note,LINK)
	$(Q)$(LINK) -o $@ $^ $(LIBS)
	$(if $(filter %/pgpoll-worker,$@),$(SAY_SHARED))

# Printed only if shared libraries were not asked for. Debian's packages have the archives; those of other systems may not.
SAY_SHARED = $(if $(filter file,$(origin WORKER_LDFLAGS)),$(if $(SANITIZE),,$(if $(MISSING_ARCHIVES),@echo '  NOTE pgpoll-worker is linked with shared libraries: no static library for $(MISSING_ARCHIVES) (Debian has them in libfcgi-dev, libjson-c-dev, libc6-dev). It works the same and takes 40 KiB more a worker.')))

$(LIBRARY): $(SRC)
	$(call note,AR  )
	$(Q)rm -f $@ && $(AR) rcs $@ $^

unit-runner: $(BUILD)/tests/unit/run
$(BUILD)/tests/unit/run: $(UNIT) $(LIBRARY)
	$(call note,LINK)
	$(Q)$(LINK) -o $@ $^ -lcunit $(PKG_LIBS)

# Each harness is a file. jansson comes last, because it defines some of json-c's names.
fuzzers: $(call fuzzers,$(BUILD))
$(call fuzzers,$(BUILD)): %: %.o $(BUILD)/tests/fuzz/second_opinion.o $(FCGI) $(LIBRARY)
	$(call note,LINK)
	$(Q)$(LINK) -fsanitize=fuzzer -o $@ $^ $(FCGI_LIBS) $(PKG_LIBS) -ljansson

bench-programs: $(addprefix $(BUILD)/tests/bench/,storm herd herd-notify)
$(BUILD)/tests/bench/storm: $(BUILD)/tests/bench/storm.o $(BUILD)/tests/bench/http.o
	$(call note,LINK)
	$(Q)$(LINK) -o $@ $^ -lpq
$(BUILD)/tests/bench/herd: $(BUILD)/tests/bench/herd.o
	$(call note,LINK)
	$(Q)$(LINK) -o $@ $^ $(FCGI_LIBS)
$(BUILD)/tests/bench/herd-notify: tests/bench/herd.c Makefile
	@mkdir -p $(@D)
	$(call note,CC  )
	$(Q)$(COMPILE) -DHERD_LISTEN='"LISTEN herd"' -o $@ $< $(LDFLAGS) $(FCGI_LIBS) -lpq

$(OBJECTS): $(BUILD)/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(call note,CC  )
	$(Q)$(COMPILE) -MMD -MP -c -o $@ $<

$(BUILD)/src/manager/check.o $(BUILD)/src/postgres/connect.o $(BUILD)/src/shared/host_metrics.o $(BUILD)/fcgi/startup.o: sql/version.sql

-include $(OBJECTS:.o=.d)

# Only goals that say so install packages, and they do so before anything else.
packages: packages-run ## installs the Debian packages that building and running need (root or sudo)
packages-run:
	@deploy/packages build run
packages-test:
	@deploy/packages build run test bench lint
packages-bench:
	@deploy/packages build run bench
$(OBJECTS): | $(if $(filter bench,$(MAKECMDGOALS)),packages-bench) $(if $(filter test soak site fuzz,$(MAKECMDGOALS)),packages-test,$(if $(filter run start packages,$(MAKECMDGOALS)),packages-run))

run: packages-run all ## everything in the foreground, Ctrl-C stops it: PORT=8080 RUN=.run WORKERS=64
start: packages-run all ## the same in the background; `. $(RUN)/env` to work with it
reload: all ## fresh workers, of a rebuilt program too; no poll is lost
stop: ## stops what `make start` or `make run` started; its data stay
psql: ## psql in its database
run start stop reload psql: export RUN := $(RUN)
run start stop reload psql: export PORT := $(PORT)
run start stop reload psql: export WORKERS := $(WORKERS)
run start stop reload psql: export MODE := $(MODE)
run start stop reload psql: export BUILD := $(BUILD)
run start stop reload psql:
	@deploy/local $@

test: packages-test all unit-runner bench-programs ## all tests, or SUITES="lint unit sanitized threads fuzz sql fault e2e e2e-pool e2e-around e2e-web e2e-direct e2e-database e2e-watch"
	@$(if $(filter sanitized,$(SUITES)),$(MAKE) SANITIZE=$(SANITIZERS) unit-runner)
	@$(if $(filter threads,$(SUITES)),$(MAKE) SANITIZE=thread unit-runner)
	@$(if $(filter fuzz,$(SUITES)),$(MAKE) CC=clang SANITIZE=$(FUZZ_SANITIZE) fuzzers)
	@UNIT=$(BUILD)/tests/unit/run SANITIZED=$(call build_of,$(SANITIZERS))/tests/unit/run \
	    THREADS=$(call build_of,thread)/tests/unit/run \
	    FUZZERS="$(call fuzzers,$(call build_of,$(FUZZ_SANITIZE)))" tests/run $(SUITES)

soak: packages-test all ## the tests that take minutes: a hundred thousand polls, long polls, one fault after another
	@deploy/packages soak test-container
	@tests/run soak

site: packages-test all ## faults of a site of several databases and web hosts; prints the table of docs/several-hosts.md (root)
	@deploy/packages soak
	@tests/run site

fuzz: packages-test ## feeds the parsers with what nobody thought of, FUZZ_S=60 seconds each
	@$(MAKE) CC=clang SANITIZE=$(FUZZ_SANITIZE) fuzzers
	@FUZZ_S=$(FUZZ_S) tests/fuzz/run $(call fuzzers,$(call build_of,$(FUZZ_SANITIZE)))

bench: packages-bench all bench-programs ## measures it here, beside Nchan and plain INSERTs: BENCH="latency publish" for parts, QUICK=1, KEEP=NAME
	@/usr/bin/python3 -B tests/bench/run

test-deb: deb ## tests the package on a machine of its own, in a container (root; packages: deploy/packages build deb test-deb)
	@tests/run package

test-postgres: ## runs the SQL tests and a history of faults on PostgreSQL 14 to 18, or VERSIONS="14 16" (root, npm)
	@tests/postgres $(VERSIONS)

test-debian: ## tests what depends on the release on another one, in a root made by debootstrap: SUITE=trixie, or sid (root)
	@tests/debian/run $(or $(SUITE),trixie)

test-container: ## builds the container image and tests it (root; packages: deploy/packages test-container)
	@tests/run container

C_FILES := $(wildcard src/*/*.c fcgi/*.c tests/unit/*.c tests/fuzz/*.c tests/bench/*.c)
lint: lint-format lint-cppcheck lint-shell lint-layers lint-tidy ## clang-format, cppcheck, shellcheck, includes, clang-tidy (their packages: deploy/packages lint)
lint-format:
	clang-format --dry-run -Werror $(C_FILES) $(wildcard src/*/*.h fcgi/*.h tests/unit/*.h tests/fuzz/*.h tests/bench/*.h)
lint-cppcheck:
	cppcheck --quiet --enable=warning,performance,portability --error-exitcode=2 --inline-suppr --suppress=normalCheckLevelMaxBranches -Isrc -Ifcgi $(C_FILES)
lint-shell:
	shellcheck -x -P SCRIPTDIR deploy/local deploy/packages deploy/install $(wildcard deploy/pgpoll-*) deploy/container/entrypoint $(wildcard deploy/debian/p*) deploy/debian/build deploy/runit/*/run tests/bench/instructions tests/layers tests/run tests/sum tests/postgres tests/debian/bootstrap tests/debian/root tests/debian/run tests/fuzz/run tests/sql/schemas/save .ci/run $(wildcard tests/sql/run)
lint-layers:
	tests/layers
# One file at a time: with several files, clang-tidy 14 wrongly reports uninitialised va_lists. Of a clean file it only says how many
# warnings it hides.
TIDY_FILES := $(wildcard src/*/*.c fcgi/*.c)
lint-tidy: $(TIDY_FILES:%=lint-tidy-%)
$(TIDY_FILES:%=lint-tidy-%): lint-tidy-%:
	@said=$$(clang-tidy --quiet $* -- $(filter-out -g -O% -D_FORTIFY%,$(wordlist 2,99,$(COMPILE))) 2>&1) || { echo "$$said"; exit 1; }

# `uninstall` would take one directory with a blank in its name for two others.
NO_BLANKS = $(if $(word 2,x$(DESTDIR)$(PREFIX)$(UNITDIR)x),$(error DESTDIR, PREFIX and UNITDIR must not contain blanks))
install: all ## installs under DESTDIR and PREFIX=/usr/local; settings of its services are /etc/default/pgpoll, and stay
	$(NO_BLANKS)$(Q)DESTDIR=$(DESTDIR) PREFIX=$(PREFIX) deploy/install $(PROGRAMS)

INSTALLED := $(addprefix $(DESTDIR)$(PREFIX)/,lib/pgpoll share/pgpoll share/doc/pgpoll sbin/pgpoll-setup sbin/pgpoll-check \
                 lib/sysusers.d/pgpoll.conf share/man/man[78]/pgpoll*.[78]) $(DESTDIR)$(or $(UNITDIR),$(PREFIX)/lib/systemd/system)/pgpoll*
uninstall: ## removes that; the settings stay
	$(NO_BLANKS)$(Q)rm -rf $(INSTALLED)

# Contains only what is committed. All goals except this one work in the unpacked tarball without git.
dist: ## makes the source tarball of the last commit, build/pgpoll-VERSION.tar.gz
	@mkdir -p build
	@git archive --prefix=pgpoll-$(VERSION)/ -o build/pgpoll-$(VERSION).tar.gz HEAD
	@echo build/pgpoll-$(VERSION).tar.gz

deb: ## builds the Debian package, build/deb/pgpoll_VERSION_ARCHITECTURE.deb (what it needs: deploy/packages build deb)
	@VERSION=$(VERSION) deploy/debian/build $(BUILD)/deb

# Nobody publishes them. setuptools is Debian's: nothing is downloaded.
clients: ## packages the clients of examples/ for npm and pip, in build/clients: a .tgz (if there is npm) and a .whl
	@deploy/packages clients
	@rm -rf build/clients && mkdir -p build/clients/source && cp LICENSE examples/*.* build/clients/source
	@cd build/clients/source && /usr/bin/python3 -c 'from setuptools.build_meta import build_wheel; build_wheel("..")' >../log 2>&1 || { cat ../log; exit 1; }
	@! command -v npm >/dev/null || npm pack --silent ./build/clients/source --pack-destination build/clients >/dev/null
	@rm -rf build/clients/source build/clients/log && ls -d build/clients/*

clean: ## removes what was built
	rm -rf build

# What another compiler warns about. For arm64 it only compiles, with this machine's headers after those of its own libc.
build-clang: ## builds all with clang, in build/clang (package: deploy/packages builds)
	@$(MAKE) CI=true CC=clang BUILD=build/clang all unit-runner bench-programs
build-arm64: ## compiles all for arm64, in build/arm64 (package: deploy/packages builds)
	@$(MAKE) CI=true CC=aarch64-linux-gnu-gcc CPPFLAGS='-idirafter /usr/include' BUILD=build/arm64 objects
objects: $(OBJECTS)

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | expand -t 10
