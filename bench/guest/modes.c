/* Integer work for 32-bit and 16-bit code without an operating system: checksums, lists, matrices, a state machine,
 * sorting. `ROUNDS` is how often. */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;

struct node {
    struct node *next;
    int value;
};

static struct node nodes[256];
static int matrix[3][16][16];
static u8 text[1024];
static int keys[512];

static u16 crc16(const u8 *bytes, u32 size, u16 crc)
{
    while (size--) {
        crc ^= *bytes++;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ 0xA001 : crc >> 1;
    }
    return crc;
}

static u32 reverse_lists(u32 seed)
{
    struct node *head = 0;
    u32 sum = 0;
    for (int i = 0; i < 256; i++) {
        nodes[i].value = seed = seed * 1103515245 + 12345;
        nodes[i].next = head;
        head = &nodes[i];
    }
    for (int round = 0; round < 8; round++) {
        struct node *reversed = 0;
        while (head) {
            struct node *next = head->next;
            head->next = reversed;
            reversed = head;
            sum += head->value >> 16;
            head = next;
        }
        head = reversed;
    }
    return sum;
}

static u32 multiply(u32 seed)
{
    u32 sum = 0;
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++) {
            matrix[0][i][j] = seed >> 20;
            seed = seed * 69069 + 1;
            matrix[1][i][j] = seed >> 24;
        }
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++) {
            int cell = 0;
            for (int k = 0; k < 16; k++)
                cell += matrix[0][i][k] * matrix[1][k][j];
            sum += matrix[2][i][j] = cell;
        }
    return sum;
}

static u32 count_states(void)
{
    u32 counts[4] = { 0 };
    int state = 0;
    for (u32 i = 0; i < sizeof text; i++) {
        u8 c = text[i];
        switch (state) {
        case 0: state = c < 64 ? 1 : c < 128 ? 2 : 0; break;
        case 1: state = c & 1 ? 3 : 0; break;
        case 2: state = c & 2 ? 1 : 3; break;
        default: state = c % 3 ? 0 : 2; break;
        }
        counts[state]++;
    }
    return counts[0] ^ counts[1] << 8 ^ counts[2] << 16 ^ counts[3] << 4;
}

static void sort(int *low, int *high)
{
    while (low < high) {
        int pivot = low[(high - low) / 2], *i = low, *j = high;
        while (i <= j) {
            while (*i < pivot)
                i++;
            while (*j > pivot)
                j--;
            if (i <= j) {
                int key = *i;
                *i++ = *j;
                *j-- = key;
            }
        }
        if (j - low < high - i) {
            sort(low, j);
            low = i;
        } else {
            sort(i, high);
            high = j;
        }
    }
}

u8 work(void)
{
    u32 seed = 1, sum = 0;
    for (u32 round = 0; round < ROUNDS; round++) {
        for (u32 i = 0; i < sizeof text; i++)
            text[i] = (seed = seed * 1664525 + 1013904223) >> 24;
        for (int i = 0; i < 512; i++)
            keys[i] = seed = seed * 1664525 + 1013904223;
        sum = crc16(text, sizeof text, sum) + reverse_lists(seed) + multiply(seed) + count_states();
        sort(keys, keys + 511);
        sum ^= keys[100];
    }
    return sum ^ sum >> 8 ^ sum >> 16 ^ sum >> 24;
}
