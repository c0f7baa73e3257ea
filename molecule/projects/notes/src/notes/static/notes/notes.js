"use strict";

// Says in the footer whether the server can be reached.
(function () {
  const place = document.getElementById("connection");
  const address = new URL(place.dataset.socket, location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  let timer;

  function connect() {
    const socket = new WebSocket(address);
    socket.onopen = function () {
      socket.send("ping");
      timer = setInterval(function () { socket.send("ping"); }, 30000);
    };
    socket.onmessage = function () { place.textContent = "online"; };
    socket.onclose = function () {
      clearInterval(timer);
      place.textContent = "offline";
      setTimeout(connect, 5000);
    };
  }

  connect();
})();
