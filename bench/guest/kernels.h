/* Compute kernels without libc.
 * Each is u64 k_NAME(u64 n): n = amount of work, result = checksum. */
#ifndef KERNELS_H
#define KERNELS_H
#include <immintrin.h>
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
typedef int i32;
typedef short i16;
typedef unsigned __int128 u128;
#define NOINL __attribute__((noinline))
#define SCALAR __attribute__((noinline, optimize("no-tree-vectorize")))
static inline u64 xs(u64 *s) {
    u64 x = *s;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *s = x;
}
#define ARENA_SZ (48ul << 20)
static u8 arena[ARENA_SZ] __attribute__((aligned(4096)));

/* --- core: list + matrix + state machine + crc, CoreMark-like mix ------- */
struct ln {
    struct ln *next;
    i16 val, idx;
};
static u16 crc16(u16 d, u16 c) {
    for (int i = 0; i < 16; i++) {
        u16 x = (d ^ c) & 1;
        d >>= 1;
        c >>= 1;
        if (x)
            c ^= 0xA001;
    }
    return c;
}
static NOINL struct ln *lsort(struct ln *l, int byidx) { /* bottom-up merge sort */
    for (int k = 1;; k *= 2) {
        struct ln *p = l, *h = 0, *t = 0;
        int merges = 0;
        while (p) {
            merges++;
            struct ln *q = p;
            int ps = 0, qs = k;
            for (int i = 0; i < k && q; i++) {
                ps++;
                q = q->next;
            }
            while (ps > 0 || (qs > 0 && q)) {
                struct ln *e;
                if (!ps) {
                    e = q;
                    q = q->next;
                    qs--;
                } else if (!qs || !q) {
                    e = p;
                    p = p->next;
                    ps--;
                } else if ((byidx ? p->idx - q->idx : p->val - q->val) <= 0) {
                    e = p;
                    p = p->next;
                    ps--;
                } else {
                    e = q;
                    q = q->next;
                    qs--;
                }
                if (t)
                    t->next = e;
                else
                    h = e;
                t = e;
            }
            p = q;
        }
        t->next = 0;
        l = h;
        if (merges <= 1)
            return l;
    }
}
static NOINL struct ln *lrev(struct ln *l) {
    struct ln *r = 0;
    while (l) {
        struct ln *n = l->next;
        l->next = r;
        r = l;
        l = n;
    }
    return r;
}
static NOINL struct ln *lfind(struct ln *l, i16 v) {
    while (l && l->val != v)
        l = l->next;
    return l;
}
static NOINL u16 matpart(i16 *a, i16 *b, i32 *c, int n, i16 s) {
    u16 crc = 0;
    i32 acc = 0;
    for (int i = 0; i < n * n; i++)
        a[i] += s;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            i32 t = 0;
            for (int k = 0; k < n; k++)
                t += (i32)a[i * n + k] * b[k * n + j];
            c[i * n + j] = t;
        }
    for (int i = 0; i < n * n; i++) {
        i32 t = c[i];
        acc += ((t >> 2) & 0xf) * ((t >> 5) & 0x7f);
        if (acc > 30000) {
            crc = crc16(acc, crc);
            acc = 0;
        }
    }
    for (int i = 0; i < n * n; i++)
        a[i] -= s;
    return crc16(acc, crc);
}
static const char statein[] = "5012,1234,-874,+122,35.54400,.1234500,-110.700,+0.64400,5.500e+3,-.123e-2,-"
                              "87e+832,+0.6e-12,T0.3e-1F,-T.T++Tq,1T3.4e4z,34.0e-T^,";
static NOINL u32 statepart(u32 seed) {
    u32 cnt[8] = {0};
    int st = 0;
    const char *p = statein;
    for (; *p; p++) {
        char c = *p;
        if (((seed + (u32)(p - statein)) & 63) == 0)
            c ^= 1;
        if (c == ',') {
            cnt[st]++;
            st = 0;
            continue;
        }
        switch (st) {
        case 0:
            st = (c >= '0' && c <= '9') ? 1 : (c == '+' || c == '-') ? 2 : c == '.' ? 3 : 7;
            break;
        case 2:
            st = (c >= '0' && c <= '9') ? 1 : c == '.' ? 3 : 7;
            break;
        case 1:
            if (c == '.')
                st = 3;
            else if (c < '0' || c > '9')
                st = 7;
            break;
        case 3:
            if (c == 'e' || c == 'E')
                st = 4;
            else if (c < '0' || c > '9')
                st = 7;
            break;
        case 4:
            st = (c == '+' || c == '-') ? 5 : 7;
            break;
        case 5:
            st = (c >= '0' && c <= '9') ? 6 : 7;
            break;
        case 6:
            if (c < '0' || c > '9')
                st = 7;
            break;
        }
    }
    u32 r = 0;
    for (int i = 0; i < 8; i++)
        r = r * 31 + cnt[i];
    return r;
}
static NOINL u64 core_at(u64 n, void *mem) {
    struct ln *nd = mem;
    i16 *A = (i16 *)((u8 *)mem + 65536), *B = A + 1024;
    i32 *C = (i32 *)(B + 1024);
    u64 s = 88172645463325252ul;
    u16 crc = 0;
    struct ln *l = 0;
    for (int i = 0; i < 200; i++) {
        nd[i].val = xs(&s) & 0x7fff;
        nd[i].idx = i;
        nd[i].next = l;
        l = &nd[i];
    }
    for (int i = 0; i < 1024; i++) {
        A[i] = xs(&s) & 31;
        B[i] = xs(&s) & 31;
    }
    for (u64 it = 0; it < n; it++) {
        for (int f = 0; f < 16; f++) {
            l = lrev(l);
            struct ln *e = lfind(l, (i16)((it * 7 + f * 911) & 0x7fff));
            crc = crc16(e ? e->idx : l->val, crc);
        }
        l = lsort(l, 0);
        crc = crc16(l->val, crc);
        l = lsort(l, 1);
        crc = crc16(l->next->val, crc);
        crc = crc16(matpart(A, B, C, 12, (i16)(it & 7)), crc);
        for (int k = 0; k < 4; k++) {
            u32 r = statepart((u32)it + k);
            crc = crc16(r, crc);
            crc = crc16(r >> 16, crc);
        }
    }
    return crc;
}
static NOINL u64 k_core(u64 n) {
    return core_at(n, arena);
}

/* --- sha256 over n MiB --------------------------------------------------- */
static const u32 K256[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
#define RR(x, n) (((x) >> (n)) | ((x) << (32 - (n))))
static NOINL void shablk(u32 *H, const u8 *p) {
    u32 w[64], a = H[0], b = H[1], c = H[2], d = H[3], e = H[4], f = H[5], g = H[6], h = H[7];
    for (int i = 0; i < 16; i++)
        w[i] = __builtin_bswap32(((const u32 *)p)[i]);
    for (int i = 16; i < 64; i++) {
        u32 x = w[i - 15], y = w[i - 2];
        w[i] = w[i - 16] + w[i - 7] + (RR(x, 7) ^ RR(x, 18) ^ (x >> 3)) + (RR(y, 17) ^ RR(y, 19) ^ (y >> 10));
    }
    for (int i = 0; i < 64; i++) {
        u32 t1 = h + (RR(e, 6) ^ RR(e, 11) ^ RR(e, 25)) + ((e & f) ^ (~e & g)) + K256[i] + w[i],
            t2 = (RR(a, 2) ^ RR(a, 13) ^ RR(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        h = g;
        g = f;
        f = e;
        e = d + t1;
        d = c;
        c = b;
        b = a;
        a = t1 + t2;
    }
    H[0] += a;
    H[1] += b;
    H[2] += c;
    H[3] += d;
    H[4] += e;
    H[5] += f;
    H[6] += g;
    H[7] += h;
}
static NOINL u64 k_sha256(u64 n) {
    u32 H[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    for (u32 i = 0; i < (1u << 20); i++)
        arena[i] = (u8)(i * 167 + 13);
    for (u64 m = 0; m < n; m++)
        for (u32 o = 0; o < (1u << 20); o += 64)
            shablk(H, arena + o);
    return ((u64)H[0] << 32) | H[7];
}

/* --- hash table, pointer chase ------------------------------------------ */
static NOINL u64 k_hash(u64 n) {
    struct he {
        u64 k, v;
    } *t = (void *)arena;
    const u64 M = (1u << 20) - 1;
    u64 s = 42, sum = 0;
    for (u64 i = 0; i <= M; i++)
        t[i].k = t[i].v = 0;
    for (u64 r = 0; r < n; r++) {
        u64 k = (xs(&s) & 0x7ffff) + 1, i = (k * 0x9E3779B97F4A7C15ul >> 40) & M;
        while (t[i].k && t[i].k != k)
            i = (i + 1) & M;
        t[i].k = k;
        sum += t[i].v++;
    }
    return sum;
}
static NOINL u64 k_chase(u64 n) {
    u32 *t = (u32 *)arena;
    const u32 N = 1u << 22;
    u64 s = 99; /* 16 MiB Sattolo cycle, 4-byte links */
    for (u32 i = 0; i < N; i++)
        t[i] = i;
    for (u32 i = N - 1; i > 0; i--) {
        u32 j = (u32)((xs(&s) >> 11) % i);
        u32 x = t[i];
        t[i] = t[j];
        t[j] = x;
    }
    u32 p = 0;
    for (u64 i = 0; i < n; i++)
        p = t[p];
    return p;
}

/* --- bignum: 2048-bit schoolbook multiply + fold (adc / mul chains) ------ */
static NOINL u64 k_bignum(u64 n) {
    u64 a[32], b[32], c[64], s = 7;
    for (int i = 0; i < 32; i++) {
        a[i] = xs(&s);
        b[i] = xs(&s);
    }
    for (u64 r = 0; r < n; r++) {
        for (int i = 0; i < 64; i++)
            c[i] = 0;
        for (int i = 0; i < 32; i++) {
            u64 cy = 0;
            for (int j = 0; j < 32; j++) {
                u128 t = (u128)a[i] * b[j] + c[i + j] + cy;
                c[i + j] = (u64)t;
                cy = (u64)(t >> 64);
            }
            c[i + 32] = cy;
        }
        unsigned char f = 0;
        for (int i = 0; i < 32; i++) {
            unsigned long long o;
            f = _addcarry_u64(f, c[i], c[i + 32], &o);
            a[i] = o;
        }
        a[0] += f;
    }
    return a[0] ^ a[31];
}

/* --- interp: bytecode interpreter, computed goto ------------------------- */
enum {
    OP_LDI,
    OP_MOV,
    OP_ADD,
    OP_SUB,
    OP_MUL,
    OP_AND,
    OP_XOR,
    OP_SHR,
    OP_LD,
    OP_ST,
    OP_JNZ,
    OP_JLT,
    OP_JMP,
    OP_INC,
    OP_CALL,
    OP_RET,
    OP_HLT
};
struct ins {
    u8 op, a, b, c;
    i32 imm;
};
static NOINL u64 vmrun(const struct ins *pc0, u64 *mem, u64 arg) {
    static const void *const L[] = {&&ldi, &&mov, &&add, &&sub, &&mul, &&and,  &&xor, &&shr, &&ld,
                                    &&st,  &&jnz, &&jlt, &&jmp, &&inc, &&call, &&ret, &&hlt};
    u64 r[16] = {0};
    const struct ins *stk[16];
    int sp = 0;
    const struct ins *pc = pc0;
    r[15] = arg;
#define NX goto *L[pc->op]
    NX;
ldi:
    r[pc->a] = (u64)(long)pc->imm;
    pc++;
    NX;
mov:
    r[pc->a] = r[pc->b];
    pc++;
    NX;
add:
    r[pc->a] = r[pc->b] + r[pc->c];
    pc++;
    NX;
sub:
    r[pc->a] = r[pc->b] - r[pc->c];
    pc++;
    NX;
mul:
    r[pc->a] = r[pc->b] * r[pc->c];
    pc++;
    NX;
    and : r[pc->a] = r[pc->b] & r[pc->c];
    pc++;
    NX;
    xor : r[pc->a] = r[pc->b] ^ r[pc->c];
    pc++;
    NX;
shr:
    r[pc->a] = r[pc->b] >> (pc->imm & 63);
    pc++;
    NX;
ld:
    r[pc->a] = mem[(r[pc->b] + pc->imm) & 0xffff];
    pc++;
    NX;
st:
    mem[(r[pc->b] + pc->imm) & 0xffff] = r[pc->a];
    pc++;
    NX;
jnz:
    pc = r[pc->a] ? pc0 + pc->imm : pc + 1;
    NX;
jlt:
    pc = r[pc->a] < r[pc->b] ? pc0 + pc->imm : pc + 1;
    NX;
jmp:
    pc = pc0 + pc->imm;
    NX;
inc:
    r[pc->a] += pc->imm;
    pc++;
    NX;
call:
    stk[sp++] = pc + 1;
    pc = pc0 + pc->imm;
    NX;
ret:
    pc = stk[--sp];
    NX;
hlt:
    return r[0];
#undef NX
}
static NOINL u64 k_interp(u64 n) {
    static const struct ins prog[] = {
        /* r1=i, r2=limit, r0=acc, mixes loads, calls, branches */
        {OP_LDI, 1, 0, 0, 0},        {OP_MOV, 2, 15, 0, 0}, {OP_LDI, 0, 0, 0, 1}, {OP_LDI, 9, 0, 0, 3},
        {OP_LDI, 8, 0, 0, 1},
        /*5*/ {OP_LD, 3, 1, 0, 0},   {OP_ADD, 3, 3, 0, 0},  {OP_AND, 4, 1, 9, 0}, {OP_JNZ, 4, 0, 0, 11},
        {OP_CALL, 0, 0, 0, 16},      {OP_JMP, 0, 0, 0, 12},
        /*11*/ {OP_XOR, 0, 0, 3, 0},
        /*12*/ {OP_ST, 0, 1, 0, 7},  {OP_INC, 1, 0, 0, 1},  {OP_JLT, 1, 2, 0, 5}, {OP_HLT, 0, 0, 0, 0},
        /*16*/ {OP_MUL, 5, 3, 3, 0}, {OP_SHR, 5, 5, 0, 7},  {OP_ADD, 0, 0, 5, 0}, {OP_SUB, 0, 0, 8, 0},
        {OP_RET, 0, 0, 0, 0}};
    u64 *m = (u64 *)arena;
    for (int i = 0; i < 65536; i++)
        m[i] = (u64)i * 2654435761u;
    return vmrun(prog, m, n);
}
/* --- fib: call/ret; icall: indirect calls -------------------------------- */
static NOINL u64 fibr(u64 n) {
    if (n < 2)
        return n;
    u64 a = fibr(n - 1);
    __asm__ volatile("" ::"r"(a));
    u64 b = fibr(n - 2);
    __asm__ volatile("" ::"r"(b));
    return a + b;
}
static NOINL u64 k_fib(u64 n) {
    return fibr(n);
}
typedef u64 (*opf)(u64, u64);
static NOINL u64 f0(u64 a, u64 b) {
    return a + b;
}
static NOINL u64 f1(u64 a, u64 b) {
    return a ^ b;
}
static NOINL u64 f2(u64 a, u64 b) {
    return a * 3 + b;
}
static NOINL u64 f3(u64 a, u64 b) {
    return a - b;
}
static NOINL u64 f4(u64 a, u64 b) {
    return (a << 1) | (b & 1);
}
static NOINL u64 f5(u64 a, u64 b) {
    return a > b ? a : b + 1;
}
static NOINL u64 f6(u64 a, u64 b) {
    return (a >> 3) + b;
}
static NOINL u64 f7(u64 a, u64 b) {
    return ~a + b;
}
static NOINL u64 k_icall(u64 n) {
    opf T[8];
    T[0] = f0;
    T[1] = f1;
    T[2] = f2;
    T[3] = f3;
    T[4] = f4;
    T[5] = f5;
    T[6] = f6;
    T[7] = f7;
    u8 *b = arena;
    u64 s = 5, a = 1;
    for (int i = 0; i < 4096; i++) {
        b[i] = xs(&s) & 7;
    }
    __asm__ volatile("" ::"r"(T) : "memory");
    for (u64 i = 0; i < n; i++)
        a = T[b[i & 4095]](a, i);
    return a;
}

/* --- FP ------------------------------------------------------------------- */
static inline double dsqrt(double x) {
    __m128d v = _mm_set_sd(x);
    return _mm_cvtsd_f64(_mm_sqrt_sd(v, v));
}
struct body {
    double x, y, z, vx, vy, vz, m;
};
static SCALAR u64 k_nbody(u64 n) {
    struct body B[5] = {{0, 0, 0, 0, 0, 0, 39.47},
                        {4.84, -1.16, -.103, .606, 2.81, -.02, .0377},
                        {8.34, 4.12, -.403, -1.01, 1.82, .00841, .0113},
                        {12.9, -15.1, -.223, 1.08, .868, -.0108, .00172},
                        {15.4, -25.9, .179, .979, .594, -.0347, .00203}};
    for (u64 s = 0; s < n; s++) {
        for (int i = 0; i < 5; i++)
            for (int j = i + 1; j < 5; j++) {
                double dx = B[i].x - B[j].x, dy = B[i].y - B[j].y, dz = B[i].z - B[j].z,
                       d2 = dx * dx + dy * dy + dz * dz, mg = .01 / (d2 * dsqrt(d2));
                B[i].vx -= dx * B[j].m * mg;
                B[i].vy -= dy * B[j].m * mg;
                B[i].vz -= dz * B[j].m * mg;
                B[j].vx += dx * B[i].m * mg;
                B[j].vy += dy * B[i].m * mg;
                B[j].vz += dz * B[i].m * mg;
            }
        for (int i = 0; i < 5; i++) {
            B[i].x += .01 * B[i].vx;
            B[i].y += .01 * B[i].vy;
            B[i].z += .01 * B[i].vz;
        }
    }
    union {
        double d;
        u64 u;
    } u;
    u.d = B[0].x + B[1].y + B[2].z + B[3].vx + B[4].vy;
    return u.u;
}
#define MN 192
#define MA ((double *)arena)
#define MB (MA + MN * MN)
#define MC (MB + MN * MN)
static void minit(void) {
    for (int i = 0; i < MN * MN; i++) {
        MA[i] = (i % 13) * .5 - 3;
        MB[i] = (i % 7) * .25 - 1;
        MC[i] = 0;
    }
}
static u64 msum(void) {
    double t = 0;
    for (int i = 0; i < MN * MN; i++)
        t += MC[i] * (i % 5);
    union {
        double d;
        u64 u;
    } u;
    u.d = t;
    return u.u;
}
static SCALAR u64 k_matmul(u64 n) {
    minit();
    for (u64 r = 0; r < n; r++)
        for (int i = 0; i < MN; i++)
            for (int j = 0; j < MN; j++) {
                double t = MC[i * MN + j] * .5;
                for (int k = 0; k < MN; k++)
                    t += MA[i * MN + k] * MB[k * MN + j];
                MC[i * MN + j] = t;
            }
    return msum();
}
static NOINL u64 k_matsse(u64 n) {
    minit();
    for (u64 r = 0; r < n; r++)
        for (int i = 0; i < MN; i++)
            for (int j = 0; j < MN; j += 8) {
                __m128d c0 = _mm_setzero_pd(), c1 = c0, c2 = c0, c3 = c0;
                for (int k = 0; k < MN; k++) {
                    __m128d a = _mm_set1_pd(MA[i * MN + k]);
                    const double *b = MB + k * MN + j;
                    c0 = _mm_add_pd(c0, _mm_mul_pd(a, _mm_loadu_pd(b)));
                    c1 = _mm_add_pd(c1, _mm_mul_pd(a, _mm_loadu_pd(b + 2)));
                    c2 = _mm_add_pd(c2, _mm_mul_pd(a, _mm_loadu_pd(b + 4)));
                    c3 = _mm_add_pd(c3, _mm_mul_pd(a, _mm_loadu_pd(b + 6)));
                }
                double *c = MC + i * MN + j;
                _mm_storeu_pd(c, c0);
                _mm_storeu_pd(c + 2, c1);
                _mm_storeu_pd(c + 4, c2);
                _mm_storeu_pd(c + 6, c3);
            }
    return msum();
}
static __attribute__((noinline, target("avx2,fma"))) u64 k_matavx2(u64 n) {
    minit();
    for (u64 r = 0; r < n; r++)
        for (int i = 0; i < MN; i++)
            for (int j = 0; j < MN; j += 16) {
                __m256d c0 = _mm256_setzero_pd(), c1 = c0, c2 = c0, c3 = c0;
                for (int k = 0; k < MN; k++) {
                    __m256d a = _mm256_set1_pd(MA[i * MN + k]);
                    const double *b = MB + k * MN + j;
                    c0 = _mm256_fmadd_pd(a, _mm256_loadu_pd(b), c0);
                    c1 = _mm256_fmadd_pd(a, _mm256_loadu_pd(b + 4), c1);
                    c2 = _mm256_fmadd_pd(a, _mm256_loadu_pd(b + 8), c2);
                    c3 = _mm256_fmadd_pd(a, _mm256_loadu_pd(b + 12), c3);
                }
                double *c = MC + i * MN + j;
                _mm256_storeu_pd(c, c0);
                _mm256_storeu_pd(c + 4, c1);
                _mm256_storeu_pd(c + 8, c2);
                _mm256_storeu_pd(c + 12, c3);
            }
    return msum();
}
static __attribute__((noinline, target("avx"))) u64 k_matavx(u64 n) {
    minit();
    for (u64 r = 0; r < n; r++)
        for (int i = 0; i < MN; i++)
            for (int j = 0; j < MN; j += 16) {
                __m256d c0 = _mm256_setzero_pd(), c1 = c0, c2 = c0, c3 = c0;
                for (int k = 0; k < MN; k++) {
                    __m256d a = _mm256_set1_pd(MA[i * MN + k]);
                    const double *b = MB + k * MN + j;
                    c0 = _mm256_add_pd(c0, _mm256_mul_pd(a, _mm256_loadu_pd(b)));
                    c1 = _mm256_add_pd(c1, _mm256_mul_pd(a, _mm256_loadu_pd(b + 4)));
                    c2 = _mm256_add_pd(c2, _mm256_mul_pd(a, _mm256_loadu_pd(b + 8)));
                    c3 = _mm256_add_pd(c3, _mm256_mul_pd(a, _mm256_loadu_pd(b + 12)));
                }
                double *c = MC + i * MN + j;
                _mm256_storeu_pd(c, c0);
                _mm256_storeu_pd(c + 4, c1);
                _mm256_storeu_pd(c + 8, c2);
                _mm256_storeu_pd(c + 12, c3);
            }
    return msum();
}
static SCALAR u64 k_x87(u64 n) {
    long double a = 1.0L, b = 0.5L, s = 0;
    for (u64 i = 1; i <= n; i++) {
        a = a * 1.0000001L + b;
        b = b / 1.0000003L - a * 1e-9L;
        s += __builtin_fabsl(a - b);
    }
    union {
        double d;
        u64 u;
    } u;
    u.d = (double)s;
    return u.u;
}
/* integer SIMD: saturating blend + sum of absolute differences over 64 KiB, n passes */
static NOINL u64 k_sseint(u64 n) {
    for (u32 i = 0; i < 131072; i++)
        arena[i] = (u8)(i * 37 + (i >> 8));
    __m128i z = _mm_setzero_si128(), acc = z, k = _mm_set1_epi16(77);
    for (u64 r = 0; r < n; r++)
        for (u32 o = 0; o < 65536; o += 16) {
            __m128i *d = (__m128i *)(arena + o);
            __m128i a = _mm_load_si128(d), b = _mm_load_si128((__m128i *)(arena + 65536 + o));
            acc = _mm_add_epi64(acc, _mm_sad_epu8(a, b));
            __m128i lo = _mm_srli_epi16(_mm_mullo_epi16(_mm_unpacklo_epi8(a, z), k), 7),
                    hi = _mm_srli_epi16(_mm_mullo_epi16(_mm_unpackhi_epi8(a, z), k), 7);
            __m128i p = _mm_packus_epi16(lo, hi);
            __m128i m = _mm_cmpgt_epi8(p, b);
            _mm_store_si128(d, _mm_adds_epu8(_mm_xor_si128(_mm_and_si128(m, p), _mm_andnot_si128(m, b)),
                                             _mm_shuffle_epi32(b, 0x1b)));
        }
    u64 q[2];
    _mm_storeu_si128((__m128i *)q, acc);
    return q[0] + q[1];
}
/* AES-NI: n MiB of AES-128 CTR-like stream, 4 lanes */
static __attribute__((noinline, target("aes,sse4.1"))) u64 k_aesni(u64 n) {
    __m128i k[11];
    k[0] = _mm_set_epi32(1, 2, 3, 4);
    for (int i = 1; i < 11; i++)
        k[i] = _mm_xor_si128(_mm_shuffle_epi32(_mm_aeskeygenassist_si128(k[i - 1], 1), 0xff),
                             _mm_xor_si128(k[i - 1], _mm_slli_si128(k[i - 1], 4)));
    __m128i ctr = _mm_setzero_si128(), one = _mm_set_epi64x(0, 1), x = ctr;
    for (u64 r = 0; r < n * 16384; r++) {
        __m128i a = _mm_xor_si128(ctr, k[0]);
        ctr = _mm_add_epi64(ctr, one);
        __m128i b = _mm_xor_si128(ctr, k[0]);
        ctr = _mm_add_epi64(ctr, one);
        __m128i c = _mm_xor_si128(ctr, k[0]);
        ctr = _mm_add_epi64(ctr, one);
        __m128i d = _mm_xor_si128(ctr, k[0]);
        ctr = _mm_add_epi64(ctr, one);
        for (int i = 1; i < 10; i++) {
            a = _mm_aesenc_si128(a, k[i]);
            b = _mm_aesenc_si128(b, k[i]);
            c = _mm_aesenc_si128(c, k[i]);
            d = _mm_aesenc_si128(d, k[i]);
        }
        x = _mm_xor_si128(
            x, _mm_xor_si128(_mm_xor_si128(_mm_aesenclast_si128(a, k[10]), _mm_aesenclast_si128(b, k[10])),
                             _mm_xor_si128(_mm_aesenclast_si128(c, k[10]), _mm_aesenclast_si128(d, k[10]))));
    }
    u64 q[2];
    _mm_storeu_si128((__m128i *)q, x);
    return q[0] ^ q[1];
}
/* rep movsb / rep stosq, n x 256 KiB copies of 4 KiB blocks */
static NOINL u64 k_repmovs(u64 n) {
    for (u64 r = 0; r < n; r++)
        for (u32 o = 0; o < (256u << 10); o += 4096) {
            void *d = arena + (1u << 20) + 37 * 4096 + o;
            const void *s = arena + o;
            u64 c = 4096;
            __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(c)::"memory");
            d = arena + o;
            c = 64;
            __asm__ volatile("rep stosq" : "+D"(d), "+c"(c) : "a"(r) : "memory");
        }
    return arena[(1u << 20) + 37 * 4096];
}

struct kern {
    const char *name;
    u64 (*f)(u64);
    u64 n;
};
#define KERNELS                                                                                              \
    {"core", k_core, 30000}, {"sha256", k_sha256, 256}, {"hash", k_hash, 50000000},                          \
        {"chase", k_chase, 6000000}, {"bignum", k_bignum, 1000000}, {"interp", k_interp, 50000000},          \
        {"fib", k_fib, 41}, {"icall", k_icall, 60000000}, {"nbody", k_nbody, 5000000},                       \
        {"matmul", k_matmul, 60}, {"matsse", k_matsse, 300}, {"matavx", k_matavx, 400},                      \
        {"matavx2", k_matavx2, 400}, {"x87", k_x87, 50000000}, {"sseint", k_sseint, 40000},                  \
        {"aesni", k_aesni, 4000}, {"repmovs", k_repmovs, 40000}
#endif
