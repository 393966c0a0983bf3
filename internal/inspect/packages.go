package inspect

import (
	"bytes"
	"regexp"
	"strings"
)

// Package is where the distributions have a library. Names may be empty where they are not known.
type Package struct {
	Debian string `json:"debian"` // package of Debian and Ubuntu
	RPM    string `json:"rpm"`    // package of Fedora and RHEL, or what their packages provide: "libfoo.so.1()(64bit)"
	Guess  bool   `json:"guess"`  // derived from the distributions' naming rules and not from a list
}

// commonPackages are the libraries that programs usually miss: soname, Debian 12's package, Fedora's.
const commonPackages = `
ld-linux-x86-64.so.2    libc6            glibc
ld-linux-aarch64.so.1   libc6            glibc
ld-linux-armhf.so.3     libc6            glibc
ld-linux-riscv64-lp64d.so.1 libc6        glibc
ld-linux.so.2           libc6            glibc
ld64.so.1               libc6            glibc
ld64.so.2               libc6            glibc
ld-musl-x86_64.so.1     musl             musl-libc
ld-musl-aarch64.so.1    musl             musl-libc
libc.so                 musl             musl-libc
libc.so.6               libc6            glibc
libm.so.6               libc6            glibc
libpthread.so.0         libc6            glibc
libdl.so.2              libc6            glibc
librt.so.1              libc6            glibc
libresolv.so.2          libc6            glibc
libutil.so.1            libc6            glibc
libnss_files.so.2       libc6            glibc
libcrypt.so.1           libcrypt1        libxcrypt-compat
libcrypt.so.2           -                libxcrypt
libgcc_s.so.1           libgcc-s1        libgcc
libstdc++.so.6          libstdc++6       libstdc++
libgomp.so.1            libgomp1         libgomp
libgfortran.so.5        libgfortran5     libgfortran
libatomic.so.1          libatomic1       libatomic
libgo.so.22             libgo22          libgo
libssl.so.3             libssl3          openssl-libs
libcrypto.so.3          libssl3          openssl-libs
libssl.so.1.1           libssl1.1        openssl1.1
libcrypto.so.1.1        libssl1.1        openssl1.1
libz.so.1               zlib1g           zlib
libbz2.so.1.0           libbz2-1.0       bzip2-libs
liblzma.so.5            liblzma5         xz-libs
libzstd.so.1            libzstd1         libzstd
liblz4.so.1             liblz4-1         lz4-libs
libsnappy.so.1          libsnappy1v5     snappy
libsqlite3.so.0         libsqlite3-0     sqlite-libs
libpcap.so.0.8          libpcap0.8       -
libpcap.so.1            -                libpcap
libsystemd.so.0         libsystemd0      systemd-libs
libudev.so.1            libudev1         systemd-libs
librdkafka.so.1         librdkafka1      librdkafka
libpq.so.5              libpq5           libpq
libmariadb.so.3         libmariadb3      mariadb-connector-c
libmysqlclient.so.21    libmysqlclient21 mysql-libs
libgit2.so.1.5          libgit2-1.5      libgit2
libssh2.so.1            libssh2-1        libssh2
libssh.so.4             libssh-4         libssh
libcurl.so.4            libcurl4         libcurl
libcurl-gnutls.so.4     libcurl3-gnutls  -
libvips.so.42           libvips42        vips
libMagickWand-6.Q16.so.6 libmagickwand-6.q16-6 ImageMagick-libs
libwebp.so.7            libwebp7         libwebp
libjpeg.so.62           libjpeg62-turbo  libjpeg-turbo
libpng16.so.16          libpng16-16      libpng
libtiff.so.6            libtiff6         libtiff
libavcodec.so.59        libavcodec59     libavcodec-free
libavformat.so.59       libavformat59    libavformat-free
libfreetype.so.6        libfreetype6     freetype
libfontconfig.so.1      libfontconfig1   fontconfig
libcairo.so.2           libcairo2        cairo
libpango-1.0.so.0       libpango-1.0-0   pango
libglib-2.0.so.0        libglib2.0-0     glib2
libgobject-2.0.so.0     libglib2.0-0     glib2
libgtk-3.so.0           libgtk-3-0       gtk3
libX11.so.6             libx11-6         libX11
libxcb.so.1             libxcb1          libxcb
libGL.so.1              libgl1           libglvnd-glx
libEGL.so.1             libegl1          libglvnd-egl
libvulkan.so.1          libvulkan1       vulkan-loader
libSDL2-2.0.so.0        libsdl2-2.0-0    SDL2
libasound.so.2          libasound2       alsa-lib
libopus.so.0            libopus0         opus
libxml2.so.2            libxml2          libxml2
libxslt.so.1            libxslt1.1       libxslt
libyaml-0.so.2          libyaml-0-2      libyaml
libexpat.so.1           libexpat1        expat
libpcre2-8.so.0         libpcre2-8-0     pcre2
libpcre.so.3            libpcre3         -
libselinux.so.1         libselinux1      libselinux
libseccomp.so.2         libseccomp2      libseccomp
libcap.so.2             libcap2          libcap
libapparmor.so.1        libapparmor1     libapparmor
libacl.so.1             libacl1          libacl
libattr.so.1            libattr1         libattr
libblkid.so.1           libblkid1        libblkid
libmount.so.1           libmount1        libmount
libuuid.so.1            libuuid1         libuuid
libdevmapper.so.1.02.1  libdevmapper1.02.1 device-mapper-libs
libbtrfs.so.0           libbtrfs0        libbtrfs
libgpgme.so.11          libgpgme11       gpgme
libgcrypt.so.20         libgcrypt20      libgcrypt
libgnutls.so.30         libgnutls30      gnutls
libkrb5.so.3            libkrb5-3        krb5-libs
libgssapi_krb5.so.2     libgssapi-krb5-2 krb5-libs
libldap-2.5.so.0        libldap-2.5-0    -
libldap.so.2            -                openldap
libsasl2.so.2           libsasl2-2       cyrus-sasl-lib
libpam.so.0             libpam0g         pam-libs
libdbus-1.so.3          libdbus-1-3      dbus-libs
libusb-1.0.so.0         libusb-1.0-0     libusb1
libncurses.so.6         libncurses6      ncurses-libs
libtinfo.so.6           libtinfo6        ncurses-libs
libreadline.so.8        libreadline8     readline
libedit.so.2            libedit2         -
libicuuc.so.72          libicu72         libicu
libprotobuf.so.32       libprotobuf32    protobuf
libzmq.so.5             libzmq5          zeromq
libsodium.so.23         libsodium23      libsodium
libevent-2.1.so.7       libevent-2.1-7   libevent
libuv.so.1              libuv1           libuv
libnuma.so.1            libnuma1         numactl-libs
libvirt.so.0            libvirt0         libvirt-libs
librados.so.2           librados2        librados2
librbd.so.1             librbd1          librbd1
librocksdb.so.7.8       librocksdb7.8    rocksdb
libleveldb.so.1d        libleveldb1d     -
libodbc.so.2            libodbc2         unixODBC
libbpf.so.1             libbpf1          libbpf
libelf.so.1             libelf1          elfutils-libelf
libunwind.so.8          libunwind8       libunwind
libjemalloc.so.2        libjemalloc2     jemalloc
libtesseract.so.5       libtesseract5    tesseract-libs
libonig.so.5            libonig5         oniguruma
libxmlsec1.so.1         libxmlsec1       xmlsec1
libpython3.11.so.1.0    libpython3.11    python3-libs
liblua5.4.so.0          liblua5.4-0      -
libluajit-5.1.so.2      libluajit-5.1-2  luajit
`

// sonameRule takes libNAME.so.VERSION and libNAME-VERSION.so apart.
var sonameRule = regexp.MustCompile(`^(lib[A-Za-z0-9+._-]+?)\.so\.([0-9]+)(\.[0-9.]+)?$`)

// PackageOf returns which packages have a library or loader, by its soname; wide means that it is wanted in 64 bits. Where
// the list has none, a Debian package's name follows from Debian's policy (chapter 8.1: libfoo.so.1 is in libfoo1, libfoo2.so.1
// in libfoo2-1), and RPM packages provide each library under its own name.
func PackageOf(soname string, wide bool) Package {
	p := Package{}
	for line := range strings.Lines(commonPackages) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == soname {
			p = Package{Debian: strings.Trim(f[1], "-"), RPM: strings.Trim(f[2], "-")}
		}
	}
	m := sonameRule.FindStringSubmatch(soname)
	if m == nil || p.Debian != "" && p.RPM != "" {
		return p
	}
	if p.Debian == "" && p.RPM == "" {
		p.Guess = true
		stem := strings.ReplaceAll(strings.ToLower(m[1]), "_", "-")
		if last := stem[len(stem)-1]; last >= '0' && last <= '9' {
			stem += "-"
		}
		p.Debian = stem + m[2] + m[3]
	}
	if p.RPM == "" {
		p.RPM = soname + "()"
		if wide {
			p.RPM += "(64bit)"
		}
	}
	return p
}

// install says how to get the packages, "" where none is known.
func install(missing []Missing) string {
	var deb, rpm []string
	guess := false
	add := func(to *[]string, name string) {
		for _, n := range *to {
			if n == name {
				return
			}
		}
		if name != "" {
			*to = append(*to, name)
		}
	}
	for _, m := range missing {
		add(&deb, m.Debian)
		add(&rpm, m.RPM)
		guess = guess || m.Guess
	}
	var ways []string
	if len(deb) > 0 {
		ways = append(ways, strings.Join(deb, " ")+" (Debian)")
	}
	if len(rpm) > 0 {
		for i, n := range rpm {
			if strings.Contains(n, "(") {
				rpm[i] = "'" + n + "'"
			}
		}
		ways = append(ways, strings.Join(rpm, " ")+" (RPM)")
	}
	if len(ways) == 0 {
		return ""
	}
	s := "install " + strings.Join(ways, " or ")
	if guess {
		s += ", if their names follow the rule"
	}
	return s
}

// owners asks dpkg's database which package each library belongs to. It has a list of paths for each package, which name
// a file by the path it was unpacked to, before or after /lib became a link to /usr/lib.
func (r *Report) owners(t tree) {
	const dir = "/var/lib/dpkg/info/"
	wanted := map[string][]int{}
	for i, f := range r.Found {
		plain := strings.TrimPrefix(f.Path, "/usr")
		wanted[plain] = append(wanted[plain], i)
	}
	if len(wanted) == 0 {
		return
	}
	for _, name := range t.list(dir) {
		pkg, ok := strings.CutSuffix(name, ".list")
		if !ok {
			continue
		}
		pkg, _, _ = strings.Cut(pkg, ":") // the architecture
		text := []byte(t.read(dir + name))
		if !bytes.Contains(text, []byte(".so")) {
			continue
		}
		for line := range bytes.Lines(text) {
			line = bytes.TrimPrefix(bytes.TrimSuffix(line, []byte("\n")), []byte("/usr"))
			for _, i := range wanted[string(line)] {
				r.Found[i].Package = pkg
			}
		}
	}
}
