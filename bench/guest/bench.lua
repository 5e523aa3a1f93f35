-- Tables, strings, closures and floating point; arg[1] is the amount of work.
local N=tonumber(arg and arg[1] or 100)
local function fib(n) if n<2 then return n end return fib(n-1)+fib(n-2) end
local acc=fib(24+ (N>=100 and 5 or 0))
local t={} for i=1,N*3000 do t[i]=(i*7919)%100003 end
table.sort(t) acc=acc+t[#t//2]
local d={} for i=1,N*2000 do local k="k"..(i%5000); d[k]=(d[k] or 0)+i end
for k,v in pairs(d) do acc=acc+v%7 end
local s={} for i=1,N*300 do s[#s+1]=string.format("%d:%x",i,i*i) end
acc=acc+#table.concat(s,","):gsub("1","22")
local x=0.5 for i=1,N*40000 do x=3.9*x*(1-x) end
print(acc,string.format("%.6f",x))
